"""ILSVRC-2012 as the official archives: a tar of tars to train on, a flat tar to validate; also Hugging Face's tars."""

import re

from alexnet_torch.data.sources.imagenet_classes import imagenet_classes, validation_labels
from alexnet_torch.data.sources.junk import PassedOver, junk_path_reason
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.tar_members import TarMember, list_tar
from alexnet_torch.errors import UserError

IMAGE_NAME = re.compile(r".*\.(jpe?g|png)", re.IGNORECASE)
CLASS_ARCHIVE = re.compile(r"(?:.*/)?(n\d{8})\.tar")
VALIDATION_NAME = re.compile(r"(ILSVRC2012_val_(\d{8}))(?:_(n\d{8}))?(\.\w+)")
NAME_WITH_WNID = re.compile(r"(.+)_(n\d{8})(\.\w+)")


def add_class_archives(table: SampleTable, passed_over: PassedOver) -> None:
    """Adds the samples of archives that contain one archive for each class, <wnid>.tar.

    Raises:
        UserError: an archive is damaged, or contains something else.
    """
    for number, file in enumerate(table.files):
        for archive in list_tar(file):
            if reason := junk_path_reason(archive.name):
                passed_over.add(reason, archive.name)
                continue
            match = CLASS_ARCHIVE.fullmatch(archive.name)
            if not match:
                raise UserError(
                    f"{file}: contains {archive.name} among the archives of classes, <wnid>.tar; pack it again without"
                )
            try:
                for member in list_tar(file, archive.offset, archive.size):
                    if is_image_member(member, passed_over):
                        name = f"{archive.name}/{member.name}"
                        place = (number, member.offset, member.size)
                        table.add(match[1], base_name(member), name, place)
            except UserError as error:
                raise UserError(f"{error} (in its member {archive.name})") from error


def add_flat_archives(table: SampleTable, passed_over: PassedOver) -> None:
    """Adds the samples of archives without folders, whose names tell the classes.

    ILSVRC2012_val_00000001.JPEG has the package's label. Hugging Face's names end in _<wnid>, which is removed.

    Raises:
        UserError: an archive is damaged, or a name tells no class.
    """
    for number, file in enumerate(table.files):
        for member in list_tar(file):
            if is_image_member(member, passed_over):
                identity, name = class_of_name(base_name(member), f"{file}: {member.name}")
                table.add(identity, name, member.name, (number, member.offset, member.size))


def class_of_name(name: str, place: str) -> tuple[str, str]:
    """Returns the WordNet ID that an image's file name tells, and the name without it.

    Args:
        name: "ILSVRC2012_val_00000001.JPEG", the same with _<wnid>, or "n01440764_10026_n01440764.JPEG".
        place: where the image is, for messages.

    Raises:
        UserError: the name tells no class, there is no such validation image, or its suffix is not its class.
    """
    if match := VALIDATION_NAME.fullmatch(name):
        number, labels = int(match[2]), validation_labels()
        if not 1 <= number <= len(labels):
            raise UserError(
                f"{place}: ILSVRC-2012 has the validation images 1 to {len(labels):,}; pack it again without this one"
            )
        wnid = imagenet_classes()[labels[number - 1]].identity
        if match[3] not in (None, wnid):
            raise UserError(f"{place}: is an image of {wnid}, not of {match[3]}; restore its name")
        return wnid, match[1] + match[4]
    if match := NAME_WITH_WNID.fullmatch(name):
        return match[2], match[1] + match[3]
    raise UserError(
        f"{place}: its name tells no class, as ILSVRC2012_val_00000001.JPEG and *_<wnid>.JPEG do; pack it again without"
    )


def is_image_member(member: TarMember, passed_over: PassedOver) -> bool:
    """Returns whether a member is an image by its name; counts it as passed over if not."""
    reason = junk_path_reason(member.name) or (None if IMAGE_NAME.fullmatch(member.name) else "not an image")
    if reason:
        passed_over.add(reason, member.name)
    return reason is None


def base_name(member: TarMember) -> str:
    """Returns a member's name without its folders."""
    return member.name.rpartition("/")[2]
