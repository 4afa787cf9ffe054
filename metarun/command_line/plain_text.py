"""Output streams that cannot take every character: each that is missing is written in an ASCII form."""

import codecs
import io
import sys

_FORMS = {"±": "+-", "–": "-", "−": "-", "·": ".", "…": "...", "✓": "v", "‖": "||", "→": "->", "×": "x"}
_NAME = "metarun_ascii"


def write_every_character() -> None:
    r"""Let standard output and standard error take every character, whatever their encoding (`PYTHONIOENCODING=ascii`).

    Rich draws its tables in ASCII on such a stream by itself; this is for the text in them. What has no form of its own, as
    the letters of a path, is written as Python writes it (`\xe9`). So are the bytes of a file name that is no UTF-8.
    """
    codecs.register_error(_NAME, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        # surrogateescape, of the locale C, gives back the bytes of a file name, and is fine where all else can be encoded
        is_utf = str(getattr(stream, "encoding", "")).lower().startswith("utf")
        if isinstance(stream, io.TextIOWrapper) and not (is_utf and stream.errors != "strict"):
            stream.reconfigure(errors=_NAME)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: what to write in place of the characters, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    forms = map(_form, error.object[error.start : error.end])
    # "92.6 ± 0.5" becomes "92.6 +-0.5", as wide as before, so that the columns of tables stay where they are.
    is_followed = error.object[error.end - 1 : error.end + 1] == "± "
    return "".join(forms), error.end + is_followed


def _form(letter: str) -> str:
    is_spinner = "\u2800" <= letter <= "\u28ff"  # patterns of dots that rich turns round
    return _FORMS.get(letter) or ("*" if is_spinner else letter.encode("ascii", "backslashreplace").decode())
