"""The command line of train.py, made from the list of settings."""

import argparse
import inspect
import re
from difflib import get_close_matches
from typing import Any, NoReturn, get_args, get_type_hints

from alexnet_torch.errors import UserError
from alexnet_torch.recipes.settings import GROUPS, flag, options_of

# options of torch's and torchvision's training scripts, and what serves here
INSTEAD = {
    "--arch": "--recipe",
    "--model": "--recipe",
    "--pretrained": "--init FILE",
    "--wd": "--weight-decay",
    "--opt": "--recipe tensorflow-post, which trains with Adam",
    "--lr-scheduler": "--schedule",
    "--lr-warmup-epochs": "--warmup-epochs",
    "--print-freq": "--log-every",
    "--gpu": "--devices",
    "--world-size": "torchrun --nproc_per_node",
    "--evaluate": "python -m alexnet_torch evaluate RUN",
    "--test-only": "python -m alexnet_torch evaluate RUN",
}


class Parser(argparse.ArgumentParser):
    """Raises a UserError of one line for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        """Raises it, with the nearest option of an unknown one."""
        what, _, words = message.removeprefix("argument ").partition(": ")
        own = {option: option for option in self._option_string_actions}
        instead = own | {name: here for name, here in INSTEAD.items() if "--seed" in own and name not in own}
        unknown = words.split()[0].partition("=")[0] if what.startswith("unrec") else ""
        near = [f"perhaps {instead[name]}; " for name in get_close_matches(unknown, instead, 1)]
        if choice := re.match(r"invalid choice: '(.*?)' \(choose from (.*)\)", words):
            near = [f"perhaps {word}; " for word in get_close_matches(choice[1], re.findall(r"[\w.-]+", choice[2]), 1)]
        elif "--data" in own and unknown and not unknown.startswith("-"):
            near = [f"perhaps --data {unknown}; "]
        raise UserError(f"{what}: {words} ({''.join(near)}see {self.prog} --help)")


def parse(arguments: list[str] | None = None, program: str = "train.py") -> dict[str, Any]:
    """Returns the options given on a command line (by default sys.argv), by the names of the settings."""
    parser = Parser(program, description="Train AlexNet, in two towers, on a folder of images.", allow_abbrev=False)
    for title, group in GROUPS.items():
        section, types = parser.add_argument_group(f"{title} options", group.__doc__), get_type_hints(group)
        source = "".join(inspect.getsource(part) for part in inspect.getmro(group)[:-1])
        docstrings = dict(re.findall(r'^    (\w+): [^\n]+\n    """(.*?)"""', source, re.M | re.S))
        for name, option in options_of(group).items():
            text = " ".join(docstrings[name].split())
            if types[name] is bool:
                section.add_argument(flag(name), action="store_true", help=text)
                continue
            kind, *_ = get_args(types[name]) or (types[name],)
            shown = "the recipe's" if callable(option.default) else str(option.default).replace("None", "none")
            section.add_argument(
                *filter(None, (flag(name), option.alias)),
                type=kind,
                choices=option.choices or None,
                metavar=option.metavar or "|".join(option.choices),
                help=f"{text} (default: {option.default_text or shown})",
            )
    given = vars(parser.parse_args(arguments))
    return {k: v for k, v in given.items() if v is not None and v is not False and k not in ("quiet", "verbose")}
