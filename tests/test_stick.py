"""What a room without a network gets, but for the wheels, which take a network to gather."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_stick_says_how_to_begin_and_holds_what_it_speaks_of(site, tmp_path):
    sys.path.insert(0, str(ROOT / "docs"))
    from stick import gather  # which needs what the site needs

    gather(tmp_path)
    begin = (tmp_path / "BEGIN.html").read_text(encoding="utf-8")
    for address in re.findall(r'href="([^"]+)"', begin):
        assert (tmp_path / address).is_file(), address
    assert f"python{sys.version_info.major}.{sys.version_info.minor} -m venv" in begin
    assert "$" not in begin
    for named in ("course/requirements.txt", "course/notebooks/00_start_here.ipynb"):
        assert (tmp_path / named).read_bytes() == (ROOT / named.removeprefix("course/")).read_bytes()
    assert "00_start_here.ipynb" in begin and "course/requirements.txt" in begin
