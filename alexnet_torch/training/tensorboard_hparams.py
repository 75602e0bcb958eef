"""The table of runs in TensorBoard (HPARAMS): each run's settings, and its final errors."""

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import DataType, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

from alexnet_torch.files import utf8_text

BEST_ERROR = "val/best_top1_error"
TEST_RUN = "test"  # the folder of the final test's events, in that of the run's events

_METRICS = {  # a column's title: the folder and tag whose last value it shows
    "best validation error": ("", BEST_ERROR),
    "error, all crops": (TEST_RUN, "val/top1_error"),
    "top-5 error, all crops": (TEST_RUN, "val/top5_error"),
}
_NO_COLUMN = {
    "output",
    "resume",
    "cache",
    "timeout",
    "log_every",
    "save_every",
    "track",
    "quiet",
    "verbose",
}  # they change no result
_FIRST_COLUMNS = {"recipe", "batch_size", "epochs", "lr", "seed"}  # TensorBoard shows five until more are asked for
_TYPES = {bool: "DATA_TYPE_BOOL", float: "DATA_TYPE_FLOAT64", str: "DATA_TYPE_STRING"}


def experiment(settings: Mapping[str, Any]) -> Summary:
    """Returns the summary that defines the table's columns."""
    hparams = [
        # columns that "differ" come first
        HParamInfo(name=name, type=DataType.Value(_TYPES[type(value)]), differs=name in _FIRST_COLUMNS)
        for name, value in _columns(settings).items()
    ]
    metrics = [
        MetricInfo(name=MetricName(group=group, tag=tag), display_name=title)
        for title, (group, tag) in _METRICS.items()
    ]
    content = HParamsPluginData(experiment=Experiment(hparam_infos=hparams, metric_infos=metrics))
    return _summary(metadata.EXPERIMENT_TAG, content)


def session_start(settings: Mapping[str, Any]) -> Summary:
    """Returns the summary with a run's settings."""
    info = SessionStartInfo()
    for name, value in _columns(settings).items():
        kind = {bool: "bool_value", float: "number_value", str: "string_value"}[type(value)]
        setattr(info.hparams[name], kind, value)
    return _summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def _columns(settings: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Returns settings with one type for each column; a column of texts says "none" where there is no value."""
    columns: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if name in _NO_COLUMN or (name == "max_steps" and value is None):
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        columns[name] = float(value) if is_number else value if isinstance(value, bool) else _text(value)
    return columns


def _text(value: Any) -> str:
    return utf8_text(str(value or "none"))


def _summary(tag: str, content: HParamsPluginData) -> Summary:
    plugin_data = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME,
        content=HParamsPluginData(
            version=metadata.PLUGIN_DATA_VERSION,
            **{field.name: value for field, value in content.ListFields()},
        ).SerializeToString(),
    )
    nothing = TensorProto(dtype="DT_FLOAT", float_val=[0.0], tensor_shape=TensorShapeProto())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin_data), tensor=nothing)])
