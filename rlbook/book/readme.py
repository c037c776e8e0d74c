"""The table of chapters in README.md, made from book.yml."""

from rlbook.book.manifest import Book, BookError, Chapter

BEGIN = "<!-- chapters: written by `rlbook readme` -->"
END = "<!-- end of chapters -->"


def chapter_table(book: Book) -> str:
    """Return the chapters as Markdown: a table of those written, a list of those to come."""
    lines = [
        "| Chapter | What it is about | Needs | Run | Study |",
        "|---|---|---|---|---|",
        *(_row(chapter) for chapter in book.written),
    ]
    planned = [c for c in book.chapters if c.planned]
    if planned:
        names = ", ".join(f"{c.number} {c.title}" for c in planned)
        lines += ["", f"In preparation: {names}."]
    return "\n".join(lines)


def replace_table(readme: str, table: str) -> str:
    """Return the text of the README with `table` between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BookError(f"README.md: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _row(chapter: Chapter) -> str:
    needs = ", ".join(slug.partition("_")[0] for slug in chapter.prerequisites) or "-"
    return (
        f"| [{chapter.number} {chapter.title}]({chapter.notebook.as_posix()}) "
        f"| {chapter.summary} | {needs} "
        f"| {chapter.run_minutes_cpu:g} min | {duration(chapter.study_minutes)} |"
    )


def duration(minutes: float) -> str:
    """Return 30 as "30 min" and 150 as "2.5 h"."""
    return f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:.3g} h"
