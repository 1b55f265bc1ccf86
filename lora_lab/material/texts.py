"""Texts to learn from, all of them at hand: read from the running Python, made here, or your own."""

import ast
import os
import re
import sysconfig
import unicodedata
import zlib
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch


@cache
def python_prose():
    """English from the running Python: ``{source: text}``, the language reference's topics and every docstring.

    A paragraph that stands in several of them is kept where it comes first, so what is held out is new.
    """
    return MappingProxyType(_prose())


def _prose(only=None):
    from pydoc_data.topics import topics

    texts = {} if only else {f"topic {name}": _printable(text) for name, text in topics.items()}
    for name, tree in _standard_library(only):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
        texts[name] = _printable("\n\n".join(filter(None, docstrings)))
    seen = set()
    for source, text in texts.items():
        paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip() not in seen]
        seen |= {paragraph.strip() for paragraph in paragraphs}
        texts[source] = "\n\n".join(paragraphs)
    return {source: text for source, text in texts.items() if text}


@cache
def python_code():
    """The code of the running Python's own library: ``{file: code}``, docstrings and comments dropped."""
    return MappingProxyType(_code())


def _code(only=None):
    code = {name: ast.unparse(_WithoutDocstrings().visit(tree)) for name, tree in _standard_library(only)}
    return {name: _printable(text) for name, text in code.items() if text}


@cache
def unicode_names():
    """The names of Unicode 3.2's characters, the same in every Python: ``{block: names}``, a name a line.

    Without ideographs and Hangul syllables, most of the characters, whose names are a number or a spelling.
    """
    numbered = ("CJK ", "HANGUL SYLLABLE ")
    texts = {}
    for start in range(0, 0x110000, 256):
        names = [unicodedata.ucd_3_2_0.name(chr(point), "") for point in range(start, start + 256)]
        texts[f"U+{start:04X}"] = "".join(f"{name}\n" for name in names if name and not name.startswith(numbered))
    return MappingProxyType({block: names for block, names in texts.items() if names})


@cache
def tales():
    """Short fairy tales by our own small grammar, the same ones always: ``{"tale 1": text, …}``.

    Who is in a tale, and what was lost, stays the same to its end; everything else is drawn by lot.
    """
    random = torch.Generator().manual_seed(0)
    return MappingProxyType({f"tale {i + 1}": _tale(random) for i in range(2000)})


# A tale is a pattern for each of its parts; what stands in braces is drawn once for the whole tale.
_WORDS = {
    "hero": "fox hare goose badger miller baker tailor weaver princess shepherd",
    "helper": "heron raven hermit ferryman blacksmith widow toad giant cook king",
    "thing": "bell lamp key ring drum cloak kettle fiddle mirror spoon",
    "kind": "golden silver copper crooked singing borrowed broken tiny",
    "trait": "brave sleepy clever hungry proud lonely merry stubborn",
    "place": "well,bridge,old mill,oak tree,frozen pond,crossroads,market,ruined tower",
    "time": "One grey morning,One summer evening,At the first snow,On market day,Long after midnight",
    "gift": "a loaf of bread,a song,three nuts,a warm coat,half an apple,a riddle",
}
_PARTS = [
    (
        "Once there was a {trait} {hero} who had lost a {kind} {thing}.",
        "Far away there lived a {trait} {hero}, and nothing was dearer to the {hero} than a {kind} {thing}.",
    ),
    (
        "{time} the {hero} went to the {place} and met a {helper}.",
        "{time} the {hero} came to the {place}. There sat a {helper}.",
    ),
    ('"Have you seen my {thing}?" asked the {hero}.', '"Where is my {thing}?" said the {hero}, and wept.'),
    (
        '"Give me {gift}," said the {helper}, "and I will tell you."',
        '"I may have," said the {helper}, "but I am hungry for {gift}."',
    ),
    ("So the {hero} gave the {helper} {gift}.", "The {hero} had nothing but {gift}, and gave it gladly."),
    ("And look, the {thing} lay under the {place}.", "Then the {helper} laughed and took the {thing} out of a sack."),
    (
        "From that day on the {hero} and the {helper} were friends.",
        "And if the {thing} has not been lost again, the {hero} has it still.",
        "The {hero} went home and slept until spring.",
    ),
]


def _tale(random):
    def draw(choices):
        return choices[torch.randint(len(choices), (), generator=random)]

    drawn = {slot: draw(words.split("," if "," in words else " ")) for slot, words in _WORDS.items()}
    return " ".join(draw(part) for part in _PARTS).format(**drawn)


_LOG = {
    "wind": "No wind,Wind north,Wind east,Wind south,Wind west,Wind south-west,A gale from the north",
    "sky": "sea calm,sea rough,light rain,fog,clear sky,cold,hail,a rainbow at noon",
    "event": "The cook sang all night.,The cat found a mouse in the flour.,A whale looked at us for an hour.,"
    "The boy saw land. It was a cloud.,We mended the great sail.,We played cards and I lost my left boot.,"
    "A bell was heard and no ship seen.,One barrel of apples is gone.,The mate will not speak to the cook.,"
    "Caught four fish and a hat.,A gull has moved into the crow's nest.,The soup tasted of rope.",
    "mood": "All well.,All well.,All well but for the foot.,Mood bad.,Nobody slept.,All well and hungry.",
}


def ships_log(days=400, seed=0):
    """A captain's log by another small grammar, a line a day: a text that can stand in for your own."""
    random = torch.Generator().manual_seed(seed)
    lines = []
    for day in range(1, days + 1):
        drawn = [words.split(",")[torch.randint(words.count(",") + 1, (), generator=random)] for words in _LOG.values()]
        lines.append("Day {}. {}, {}. {} {}\n".format(day, *drawn))
    return "".join(lines)


def own_text(source, shortest=500, longest=200_000):
    """Your own text as TinyGPT can read it. ``source`` is the text itself, a string, or the Path of a file.

    Accents are dropped, curly quotes, long dashes and letters such as ß become plain ones, and what is then neither a
    newline nor printable ASCII is left out. A text longer than ``longest`` is cut. What was left out or cut is printed.
    """
    text = read_text(Path(source).expanduser()) if isinstance(source, os.PathLike) else source
    if not isinstance(text, str):
        raise TypeError(f"a text is a string or a Path, not a {type(text).__name__}")
    text = "\n".join(unicodedata.normalize("NFKD", text).translate(_PLAIN).splitlines()).expandtabs(4).strip()
    text = "".join(character for character in text if not unicodedata.combining(character))
    plain = _printable(text)
    left_out, plain = len(text) - len(plain), plain.strip()
    if len(plain) < len(text) / 2:
        raise ValueError(
            f"of {len(text):,} characters only {len(plain):,} are newlines or printable ASCII, and TinyGPT knows no "
            "others; choose a text in Latin letters"
        )
    if len(plain) < shortest:
        hint = " If that is the name of a file: own_text(Path('my_diary.txt'))" if isinstance(source, str) else ""
        raise ValueError(
            f"{len(plain):,} characters are too few to learn from; give at least {shortest:,}, better 20,000.{hint}"
        )
    notes = [f"{min(len(plain), longest):,} characters"]
    if len(plain) > longest:
        notes.append(f"the first of {len(plain):,}")
    if left_out:
        notes.append(f"{left_out:,} left out that TinyGPT does not know")
    print(", ".join(notes))
    return plain[:longest]


def split_by_file(texts, validation=False):
    """All texts as two: a tenth of the files to test on, the others to train on: ``(train, test)``.

    The names decide which, by their checksum, so it is the same files everywhere. Joined by blank lines. With
    ``validation`` another tenth is kept for choosing settings: ``(train, validation, test)``.
    """
    if not hasattr(texts, "items"):
        raise TypeError(f"texts are a dictionary, {{name: text}}, not a {type(texts).__name__}; one text has no files")
    parts = [[], [], []]
    for name, text in texts.items():
        tenth = zlib.crc32(name.encode()) % 10
        parts[2 if tenth == 0 else 1 if tenth == 1 and validation else 0].append(text)
    train, chosen_on, test = map("\n\n".join, parts)
    return (train, chosen_on, test) if validation else (train, test)


def held_out(kind):
    """A text that neither TinyGPT nor its adapters have seen: "prose", "code", "names" or "tales".

    Of prose and code only files that read the same in Python 3.11 to 3.14, so that losses can be compared.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(map(repr, KINDS))}")
    # Reading a few files takes a moment, reading the library takes seconds.
    return split_by_file(_steady(kind) if kind in _STEADY else KINDS[kind]())[1]


KINDS = {"prose": python_prose, "code": python_code, "names": unicode_names, "tales": tales}

# Held-out files of the standard library, each with the checksum of its text: a loss measured on another text would be
# another loss. A file that some Python has rewritten, or no longer has, is left out there.
_STEADY = {
    "prose": {
        "curses/__init__.py": 0x59D7C595,
        "hmac.py": 0x869EBFF5,
        "modulefinder.py": 0x55B3CB4A,
        "unittest/util.py": 0xCEA81AB6,
        "xml/sax/_exceptions.py": 0x4E20A07D,
        "xmlrpc/client.py": 0xC6204AF4,
    },
    "code": {
        "asyncio/transports.py": 0x0CC1E252,
        "email/base64mime.py": 0x8E6E431E,
        "multiprocessing/heap.py": 0x7CE20742,
        "sched.py": 0x80DBF015,
        "unittest/util.py": 0x2854407D,
    },
}


def _steady(kind):
    """The held-out files of a kind that read as they did when the course was measured."""
    texts = {"prose": _prose, "code": _code}[kind](_STEADY[kind])
    return {name: text for name, text in texts.items() if zlib.crc32(text.encode()) == _STEADY[kind][name]}


# What typography and some languages have beyond ASCII, as plain characters.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‹›", "'"),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **{"⁄": "/", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"},
        **{"Æ": "Ae", "Œ": "Oe", "Ø": "O", "Ł": "L", "Đ": "D"},
    }
)


def read_text(path):
    """A text file's content, or an error that says what is wrong with it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} in {str(Path.cwd())!r}; check the name and the folder")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; name one file in it")
    no_text = f"{str(path)!r} is not text in UTF-8; open it in the program that wrote it and save it as plain text"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(no_text) from None
    if "\0" in text:
        raise ValueError(no_text)
    return text


# Folders of the standard library that say little for their length: tests, tables, programs of their own.
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "site-packages", "dist-packages"}


def _standard_library(only=None):
    """Every module's name and syntax tree, parsed anew for each caller: ("json/decoder.py", tree), …"""
    root = Path(sysconfig.get_path("stdlib"))
    for path in filter(Path.exists, map(root.joinpath, only)) if only else sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not _SKIPPED & set(name.parts):
            yield name.as_posix(), ast.parse(path.read_bytes())


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node):
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            node.body = body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        return node


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _printable(text):
    """Newlines and printable ASCII, nothing else."""
    return re.sub(r"[^\n -~]", "", text.expandtabs(4))
