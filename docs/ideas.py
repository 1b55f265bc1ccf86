"""What of a notebook is shown in a lecture, and what is said: a list of ideas, each of blocks in their order.

A heading begins an idea. Of prose its beginning is shown, so much as a room can read, and the whole of it is in the
speaker's notes. Imports, guesses to type in and stubs are not shown, nor a few lines that only draw a picture. A cell
may be marked against these rules (in JupyterLab: View → Right Sidebar): ``slide`` begins an idea, ``fragment`` is shown
as it is, ``notes`` is only said, and ``skip`` is neither.
"""

import ast
import html
import re
import textwrap
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from lora_lab.exercises.clinic import PATIENTS
from lora_lab.exercises.clinic_peft import MORE_PATIENTS
from lora_lab.exercises.solutions import CHECK

WORDS = 48  # of prose on a slide; what is longer is read, not listened to
GUESSED = re.compile(r"^ex\.(\w+)\.guess\(")
BESIDE = re.compile(r"^ex\.\w+\.beside\((.*)\)\s*$", re.MULTILINE | re.DOTALL)
DIAGNOSED = re.compile(r"^(MORE_)?PATIENTS\[(\d+)\]\.diagnose\(")
GUESS = re.compile(r"\*\*[Gg]uess first")
TYPED = re.compile(r"\s*\([^()]*`guess\([^)]*\)[^()]*\)| Leave the dots, and you go on without\.")  # not in a lecture
SET_UP = re.compile(r"^torch\.set_num_threads.*\n?", re.MULTILINE)
QUESTION = re.compile(r"<details><summary>(.*?)</summary>(.*?)</details>", re.DOTALL)


@dataclass
class Block:
    """A piece of a slide. ``kind`` says what it is; ``step`` that it is shown at the speaker's next step."""

    kind: str
    html: str
    step: bool = False


@dataclass
class Idea:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, kind, content, step=False):
        if content:
            self.blocks.append(Block(kind, content, step))


def ideas(notebook, exercises):
    """The ideas of a notebook, whose exercises are in the module ``exercises``."""
    cells = [cell for cell in notebook.cells if mark(cell) != "skip"]
    found, section, solved = [_opening(cells[0].source)], "", False
    for cell in cells[1:]:
        if solved and not cell.source.startswith("#"):
            found.append(Idea(section))  # an exercise stood in the middle of one
        solved = cell.cell_type == "code" and bool(CHECK.search(cell.source))
        if cell.cell_type == "code":
            _add_code(found[-1], cell, exercises)
        elif cell.source.startswith("## Check yourself"):
            found += [_question(*parts) for parts in QUESTION.findall(cell.source)]
        elif cell.source.startswith("### Exercise"):
            found.append(Idea(cell.source.partition("\n")[0].strip("# ")))
            _add_task(found[-1], cell.source.partition("\n")[2])
        else:
            if cell.source.startswith("#"):
                section = cell.source.partition("\n")[0].strip("# ")
            if cell.source.startswith("#") or mark(cell) == "slide":
                found.append(Idea(section))
            _add_prose(found[-1], cell)
    return [idea for idea in found if idea.blocks]


def mark(cell):
    return cell.metadata.get("slideshow", {}).get("slide_type", "")


def _opening(source):
    """The title, the promise, and what one will be able to do."""
    title, promise, _ = re.match(r"# (.+)\n\n(.+?)\n\n(.*)", source, re.DOTALL).groups()
    idea = Idea("")
    able = re.search(r"\*\*You will be able to\*\* \| (.+?) \|", source)
    idea.add("title", f"<h1>{inline(title)}</h1><p>{inline(promise)}</p>")
    if able:
        idea.add("prose", f"<p><b>Afterwards you will be able to</b> {inline(able[1])}.</p>")
    return idea


def _question(question, answer):
    idea = Idea("Check yourself")
    idea.add("question", f"<p>{inline(question)}</p>")
    idea.add("answer", rendered(answer.strip()), step=True)
    return idea


def _add_task(idea, source):
    """An exercise: what it asks for stands on the slide whole, since the class works from it."""
    about, _, text = source.strip().partition("\n\n")
    idea.add("effort", rendered(about))
    idea.add("prose", rendered(text))


def _add_prose(idea, cell):
    source = re.sub(r"^#.*\n+", "", cell.source).strip()
    if idea.title == "Recap":
        idea.add("prose", rendered(source.partition("\n\n")[0]))
        return
    follows_result = bool(idea.blocks) and idea.blocks[-1].kind in ("text", "figure", "sliders", "table")
    paragraphs = source.split("\n\n")
    guesses = [p for p in paragraphs if GUESS.search(p)]
    others = "\n\n".join(p for p in paragraphs if p not in guesses and not p.startswith("(Put your guess"))
    shown = others if mark(cell) == "fragment" else shortened(others)
    if mark(cell) != "notes":
        idea.add("prose", rendered(shown), step=follows_result)
    if shown != others or mark(cell) == "notes":
        idea.add("notes", rendered(others))
    for guess in guesses:
        where = GUESS.search(guess).start()
        idea.add("prose", rendered(guess[:where].strip()))
        idea.add("guess", rendered(TYPED.sub("", "**G" + guess[where + 3 :])))


def _add_code(idea, cell, exercises):
    if call := GUESSED.match(cell.source):
        guess = getattr(exercises, call[1])
        _add_choices(idea, {str(i + 1): choice for i, choice in enumerate(guess.choices)})
        idea.add("notes", "<p><b>Ask for hands</b>, one for each answer, before you go on.</p>")
        return
    if call := CHECK.search(cell.source):
        _add_exercise(idea, getattr(exercises, call[1]))
        return
    if patient := patient_of(cell):
        _add_diagnosis(idea, patient)
        return
    source = BESIDE.sub(lambda call: textwrap.dedent(call[1]).strip(), cell.source)
    source = SET_UP.sub("", _without_imports(source)).strip()
    if source and not _only_draws(source, cell.outputs):
        idea.add("code", _coloured(source))
    for output in cell.outputs:
        _add_output(idea, output)


def patient_of(cell):
    """The patient that a cell asks the reader to diagnose, or None."""
    call = DIAGNOSED.match(cell.source)
    return call and (MORE_PATIENTS if call[1] else PATIENTS)[int(call[2])]


def _add_exercise(idea, exercise):
    """What there is to choose from; and, for the speaker, what the class will say."""
    _add_choices(idea, getattr(exercise, "choices", {}))
    _add_choices(idea, {str(number): reason for number, reason in getattr(exercise, "reasons", {}).items()})
    told = [sentence for _, sentence in exercise.misconceptions]
    idea.add("notes", _notes("What is to be said to what the class will say", told))


def _add_diagnosis(idea, patient):
    """A patient's choices for a show of hands, then what was wrong; why the others were not, for the speaker."""
    choices, found = patient.diagnose(...).choices, patient.reveal()
    _add_choices(idea, choices)
    idea.add("notes", _notes("Why not the others", patient.why_not.values()))
    idea.add("answer", f"<p><b>{html.escape(found.headline)}.</b> {html.escape(found.text)}</p>", step=True)
    idea.add("code", _coloured(found.code))


def _notes(heading, sentences):
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in dict.fromkeys(sentences))
    return f"<p><b>{heading}</b></p><ul>{listed}</ul>"


def _coloured(source):
    return _lines(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip())


def _lines(content):
    """Each line by itself. What is too long for a slide goes on deeper than it began."""
    lines = []
    for line in content.split("\n"):
        depth = len(line) - len(line.lstrip()) + 4
        lines.append(f'<span style="padding-left: {depth}ch; text-indent: -{depth}ch">{line or " "}</span>')
    return "".join(lines)


def _add_choices(idea, choices):
    items = "".join(f"<li><b>{html.escape(k)}</b> {html.escape(text)}</li>" for k, text in choices.items())
    idea.add("choices", items and f"<ul>{items}</ul>")


def _add_output(idea, output):
    if output.output_type == "stream":
        idea.add("text", _lines(html.escape(output.text.rstrip())), step=True)
        return
    if output.output_type == "error":
        idea.add("text", _lines(html.escape(f"{output.ename}: {output.evalue}")), step=True)
        return
    data = output.data
    if "text/html" in data and "lora-explorer" in data["text/html"]:
        before = [block for block in idea.blocks if block.kind != "notes"][-1:]
        for block in before:
            if block.kind == "prose" and not block.step:
                block.kind = "notes"  # what is said while the sliders are moved
        idea.add("sliders", data["text/html"])
    elif "image/png" in data:
        address = f"data:image/png;base64,{data['image/png'].strip()}"
        idea.add("figure", f'<img alt="{html.escape(data["text/plain"])}" src="{address}">')
    elif "text/html" in data:
        idea.add("table", data["text/html"], step=True)
    else:
        idea.add("text", _lines(html.escape(data["text/plain"])), step=True)


def _without_imports(source):
    """A cell's code without its imports, and with one empty line where there were more."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            del lines[node.lineno - 1 : node.end_lineno]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _only_draws(source, outputs):
    """Whether all that comes of a few lines is a picture, so that the picture says it all."""
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return bool(outputs) and pictures == outputs and len(source.splitlines()) <= 6 and "def " not in source


def shortened(source):
    """The beginning of a prose: of each paragraph, and of each point of a list, what one can read while listening."""
    if len(source.split()) <= 1.3 * WORDS:
        return source
    kept, left = [], WORDS
    for paragraph in source.split("\n\n"):
        if left <= 0:
            break
        if paragraph.startswith("$$"):
            kept.append(paragraph)
        elif paragraph.startswith("- "):
            points = [sentences(point)[0] for point in re.split(r"\n(?=- )", paragraph)]
            kept.append("\n".join(points))
            left -= len(" ".join(points).split())
        else:
            said = []
            for sentence in sentences(paragraph):
                if said and len(sentence.split()) > left:
                    break
                said.append(sentence)
                left -= len(sentence.split())
            kept.append(" ".join(said))
    return "\n\n".join(kept)


def sentences(paragraph):
    """A paragraph's sentences; a full stop inside code, mathematics, bold letters or brackets ends none."""
    found, start = [], 0
    for end in re.finditer(r"(?<=[.?!])[)*”]*\s+(?=[A-Z$*`“(\[])", paragraph):
        sentence = paragraph[start : end.end()]
        closed = all(sentence.count(sign) % 2 == 0 for sign in ("`", "$", "**"))
        if closed and sentence.count("(") == sentence.count(")"):
            found.append(sentence.strip())
            start = end.end()
    return [*found, paragraph[start:].strip()]


def _mathematics(content, options):
    left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return left + html.escape(content) + right


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=_mathematics)


def rendered(source):
    """Markdown as HTML. A link to another notebook leads to its slides."""
    page = MARKDOWN.render(source)
    return re.sub(r'href="((?:\d\d_\w+|capstone)).ipynb"', r'href="\1.html"', page)


def inline(source):
    return MARKDOWN.renderInline(source)
