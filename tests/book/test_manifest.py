"""book.yml: what it says, that it agrees with the package, and that each mistake is named."""

import importlib
from pathlib import Path

import pytest
from sphinx_external_toc.parsing import parse_toc_yaml
from transformers import AutoModelForCausalLM

from rlbook.book.manifest import Book, BookError, read_book
from rlbook.book.readme import BEGIN, END, chapter_table, replace_table

MAX_RUN_MINUTES = 1.5  # of a chapter, on two CPU cores


@pytest.fixture
def book(root: Path) -> Book:
    return read_book(root / "book.yml")


@pytest.fixture
def small(small_book: Path) -> Book:
    return read_book(small_book / "book.yml")


def test_parts_and_chapters_are_in_reading_order(small: Book) -> None:
    assert [part.caption for part in small.parts] == [None, "Part I", "Part II"]
    assert [chapter.slug for chapter in small.chapters] == ["00_start", "02_sums", "10_products"]
    assert [chapter.slug for chapter in small.written] == ["00_start", "02_sums"]


def test_a_chapter_has_what_the_file_says(small: Book) -> None:
    sums = small.chapter("02_sums")
    assert (sums.number, sums.title, sums.part) == ("02", "Sums", "Part I")
    assert (sums.run_minutes_cpu, sums.run_minutes_gpu, sums.study_minutes) == (0.2, 0.1, 90)
    assert sums.notebook == Path("notebooks/02_sums.ipynb")
    assert sums.introduces == ("paths.book_root",)
    assert small.chapter("10").planned and not sums.planned


@pytest.mark.parametrize(
    "name", ["02_sums", "02", "2", "sums", "SUMS", "notebooks/02_sums.ipynb", "02_sums.ipynb"]
)
def test_a_chapter_is_found_by_each_of_its_names(small: Book, name: str) -> None:
    assert small.chapter(name).slug == "02_sums"


def test_chapter_zero_and_an_appendix_are_found_by_number(small: Book, book: Book) -> None:
    assert small.chapter("0").slug == "00_start"
    assert book.chapter("a1").slug == "A1_pytorch"


def test_an_unknown_chapter_is_answered_with_the_nearest(small: Book) -> None:
    with pytest.raises(BookError, match=r"no chapter is called 'smus'; did you mean 02_sums\?"):
        small.chapter("smus")
    with pytest.raises(BookError, match="no chapter is called 'xyzzy'; see `rlbook list`"):
        small.chapter("xyzzy")


def test_an_unknown_route_is_answered_with_those_there_are(small: Book) -> None:
    assert small.route("all").weeks == 2
    with pytest.raises(BookError, match="no route is called 'most'; there are: all"):
        small.route("most")


def test_prerequisites_are_the_edges_of_a_graph(small: Book) -> None:
    assert small.prerequisite_edges() == (("00_start", "02_sums"), ("02_sums", "10_products"))


def test_route_hours_count_the_written_chapters(small: Book) -> None:
    assert small.written_hours(small.route("all")) == (30 + 90) / 60


MISTAKES = {
    "unknown key": (
        'summary: "Adding up."',
        'sumary: "Adding up."',
        "meta.chapters.02_sums.sumary: unknown key",
    ),
    "missing key": (
        "      study_minutes: 90\n",
        "",
        "meta.chapters.02_sums.study_minutes: missing",
    ),
    "wrong type": (
        "study_minutes: 90",
        "study_minutes: ninety",
        "meta.chapters.02_sums.study_minutes: expected a number, got 'ninety'",
    ),
    "a truth value is no number": (
        "study_minutes: 90",
        "study_minutes: true",
        "meta.chapters.02_sums.study_minutes: expected a number, got True",
    ),
    "not a list": (
        "introduces: [paths.book_root]",
        "introduces: paths.book_root",
        "meta.chapters.02_sums.introduces: expected a list",
    ),
    "wrong entry": (
        "introduces: [paths.book_root]",
        "introduces: [7]",
        "meta.chapters.02_sums.introduces[0]: expected text, got 7",
    ),
    "unknown prerequisite": (
        "prerequisites: [00_start]",
        "prerequisites: [00_strat]",
        "meta.chapters.02_sums.prerequisites: unknown chapter '00_strat'; did you mean 00_start?",
    ),
    "circle": (
        "prerequisites: [00_start]",
        "prerequisites: [10_products]",
        "go round in a circle: 02_sums -> 10_products -> 02_sums",
    ),
    "unknown chapter in a route": (
        "[00_start, 02_sums, 10_products]",
        "[00_start, 03_sums]",
        "meta.routes.all.chapters: unknown chapter '03_sums'; did you mean 02_sums?",
    ),
    "key given twice": (
        "      study_minutes: 90\n",
        "      study_minutes: 90\n      study_minutes: 91\n",
        "the key 'study_minutes' is given twice",
    ),
    "chapter listed twice": (
        "      - file: notebooks/02_sums\n",
        "      - file: notebooks/02_sums\n      - file: notebooks/02_sums\n",
        "parts[0].chapters[1].file: 02_sums is listed twice",
    ),
    "chapter without data": (
        "      - file: notebooks/02_sums\n",
        "      - file: notebooks/02_sums\n      - file: notebooks/03_x\n",
        "meta.chapters.03_x: missing, but notebooks/03_x is listed",
    ),
    "chapter not listed": (
        "      - file: notebooks/02_sums\n",
        "      - file: notebooks/03_x\n",
        "meta.chapters.02_sums: the chapter is not listed in `parts`",
    ),
    "written and planned": (
        "    10_products:\n",
        "    02_sums:\n",
        "meta.planned.02_sums: the chapter is also in meta.chapters",
    ),
    "one number twice": (
        "    10_products:\n",
        "    02_products:\n",
        "02_products and 02_sums are both called '02'",
    ),
    "unknown part": (
        'part: "Part II"',
        'part: "Part 2"',
        "meta.planned.10_products.part: 'Part 2' is not in meta.parts",
    ),
    "a suffix": (
        "file: notebooks/02_sums",
        "file: notebooks/02_sums.ipynb",
        "expected notebooks/NN_slug without a suffix, got 'notebooks/02_sums.ipynb'",
    ),
    "another format": ("jb-book", "jb-article", "format: expected 'jb-book', got 'jb-article'"),
    "not YAML": ("parts:\n", "parts: [\n", "line "),
    "a number for a name": ("    10_products:\n", "    10:\n", "meta.planned: its keys[0]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named_on_one_line(small_book: Path, mistake: str) -> None:
    right, wrong, message = MISTAKES[mistake]
    path = small_book / "book.yml"
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(BookError) as raised:
        read_book(path)
    assert str(raised.value).startswith("book.yml: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BookError, match=r"book\.yml: cannot be read: No such file"):
        read_book(tmp_path / "book.yml")


def test_notebooks_and_contents_must_agree(small: Book, small_book: Path) -> None:
    small.check_notebooks(small_book)
    extra = small_book / "notebooks" / "04_extra.ipynb"
    extra.write_text("{}")
    with pytest.raises(BookError, match=r"notebooks/04_extra\.ipynb is not in book\.yml"):
        small.check_notebooks(small_book)
    extra.unlink()
    (small_book / "notebooks" / "02_sums.ipynb").unlink()
    with pytest.raises(BookError, match=r"chapter 02_sums: no notebook notebooks/02_sums\.ipynb"):
        small.check_notebooks(small_book)


# The real book.


def test_sphinx_external_toc_reads_the_same_chapters(book: Book, root: Path) -> None:
    site = parse_toc_yaml(root / "book.yml")
    assert list(site) == [f"notebooks/{chapter.slug}" for chapter in book.written]
    assert site.meta["title"] == book.title


def test_what_a_chapter_introduces_can_be_imported(book: Book) -> None:
    for chapter in book.written:
        for dotted in chapter.introduces:
            module, _, name = dotted.rpartition(".")
            assert hasattr(importlib.import_module(f"rlbook.{module}"), name), (
                f"{chapter.slug} introduces {dotted}, which rlbook does not have"
            )


def test_each_chapter_promises_to_run_within_the_budget(book: Book) -> None:
    for chapter in book.written:
        assert 0 < chapter.run_minutes_cpu <= MAX_RUN_MINUTES, chapter.slug


def test_routes_put_prerequisites_first(book: Book) -> None:
    """Within a route: a chapter never stands before a prerequisite that is on the route too."""
    for route in book.routes:
        for position, slug in enumerate(route.chapters):
            for needed in book.chapter(slug).prerequisites:
                assert needed not in route.chapters[position:], f"{route.name}: {slug}"


def test_the_whole_book_is_a_route(book: Book) -> None:
    assert set(book.route("whole-book").chapters) == {chapter.slug for chapter in book.chapters}


# The README's table.


def test_the_table_shows_written_chapters_and_names_the_others(small: Book) -> None:
    table = chapter_table(small)
    assert (
        "| [02 Sums](notebooks/02_sums.ipynb) | Adding up. | 00 | 0.2 min | 1.5 h |"
        in table.splitlines()
    )
    assert table.endswith("In preparation: 10 Products.")


def test_the_table_is_replaced_between_its_markers() -> None:
    assert replace_table(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(BookError, match="expected the markers"):
        replace_table("no markers", "new")


def test_the_readme_is_up_to_date(book: Book, root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert replace_table(text, chapter_table(book)) == text, "run `rlbook readme`"


def test_the_readme_examples_run(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning: each step costs 1, the goal is 4 steps from the start: -(1 + 0.9 + 0.81 + 0.729).

    Advantages: the last TD error is 1 - 0.8; before it 0.8·0.99 - 0.6 + 0.99·0.95·0.2 = 0.3801.
    The gradient of the loss at ratio 1 is minus the advantage over 3 tokens.
    """
    text = (root / "README.md").read_text(encoding="utf-8")
    parts = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    planning, learning, language, own, auditing = parts
    namespace: dict = {}
    exec(compile(planning, "README.md", "exec"), namespace)
    start = namespace["world"].mdp().start
    assert start @ namespace["result"].V == pytest.approx(-3.439, abs=1e-9)
    assert "-3.439" in capsys.readouterr().out
    exec(compile(learning, "README.md", "exec"), namespace)
    advantages = namespace["advantages"][0].tolist()
    assert advantages[1:] == pytest.approx([0.3801, 0.2], abs=1e-6)
    expected = [-a / 3 for a in advantages]
    assert namespace["logprobs"].grad[0].tolist() == pytest.approx(expected, abs=1e-6)

    monkeypatch.chdir(tmp_path)  # the example saves a policy
    exec(compile(language, "README.md", "exec"), namespace)
    assert [len(namespace["responses"]), namespace["report"].update] == [4, 20]
    assert (tmp_path / "my-policy" / "model.safetensors").is_file()
    exec(compile(own, "README.md", "exec"), namespace)
    rewards = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[-20:]]
    assert rewards[-1] > rewards[0] + 0.2
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "my-trained-policy")
    for ours, theirs in zip(
        namespace["policy"].model.parameters(), trained.parameters(), strict=True
    ):
        assert (ours == theirs).all()

    exec(compile(auditing, "README.md", "exec"), namespace)
    verdict = auditing.partition("\n# ")[2].strip()
    assert capsys.readouterr().out.strip() == verdict
