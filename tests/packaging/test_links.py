"""Links between the pages lead somewhere."""

import re
from pathlib import Path

import pytest
from tests.containers.engine import ROOT, source_files

PAGES = [name for name in source_files() if name.endswith(".md")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (ROOT / Path(page).parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    folders = "alembic|api|bench|cli|client|collectors|docs|pipeline|sinks|tests"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", (ROOT / page).read_text()):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        folder, _, name = page.removeprefix("docs/").rpartition("/")
        if page.startswith("docs/") and name != "index.md":
            assert f"]({folder}/)" in index if folder else f"]({name})" in index, page
