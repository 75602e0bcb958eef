"""Text that users wrote, in files and names, in whatever encoding their editor or system chose."""

import codecs
from pathlib import Path
from shlex import quote

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error

_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def utf8_text(text: str) -> str:
    """Returns a text in which bytes that are not UTF-8, as names of files may have them, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def require_utf8(path: Path | str, option: str) -> None:
    """Raises a UserError if a path has bytes that are not UTF-8, which TensorBoard cannot open."""
    if utf8_text(str(path)) != str(path):
        raise UserError(f"{option} {utf8_text(str(path))}: is not UTF-8, as TensorBoard needs; choose another name")


def read_lines(path: Path, option: str, any_bytes: bool = False) -> list[str]:
    """Returns the lines of a text file that are not empty, without white space around them.

    The file is UTF-8, or begins with the mark of UTF-8, UTF-16 or UTF-32, which is no part of the text.

    Args:
        path: the file.
        option: that names it, for messages.
        any_bytes: read bytes that are not UTF-8, as the names of files may have them, as Python reads such names.

    Raises:
        UserError: the file cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{option} {explain_os_error(error)}") from error
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding, "surrogateescape" if any_bytes and encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        latin1 = f"convert it, for example with iconv -f LATIN1 -t UTF-8 {quote(str(path))} > {quote(f'{path}.utf8')}"
        fix = latin1 if encoding.startswith("utf-8") else "save it again as UTF-8"
        raise UserError(f"{option} {path}: is not {encoding.upper()} text (byte {error.start}); {fix}") from error
    if "\0" in text:
        raise UserError(f"{option} {path}: is no text, or UTF-16 without its mark; convert it to UTF-8")
    # not splitlines, which also ends lines at characters that names may have
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
