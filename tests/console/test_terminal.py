"""metarun.console.terminal: what is data is printed as it is."""

from rich.table import Table

from metarun.console.terminal import say, tell, terminal

from ..screens import recorded, screen
from ..training.small import SIX_STEPS, run_here


def test_neither_markup_nor_emoji_is_read_in_what_is_printed(capsys):
    console = terminal(width=100)
    table = Table()
    table.add_column("[red]name[/red]")
    table.add_row("[/bold] :smile:")
    console.print("[bold]a[/bold] [/x] :smile: [link=b]")
    console.print(table)
    say(console, ("[dim]label[/]", "bold"), " /runs/[1]/:cat:")
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "[bold]a[/bold] [/x] :smile: [link=b]"
    assert "[red]name[/red]" in out and "[/bold] :smile:" in out
    assert out.splitlines()[-1] == "[dim]label[/] /runs/[1]/:cat:"


def test_a_run_in_a_folder_of_brackets_is_printed_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    folder = tmp_path / "[bold]a" / "[] :smile: x"  # with a `/`, `[bold]a/[/` was a closing tag: a traceback
    command = (*SIX_STEPS, f"run.folder='{folder}'")
    for _ in range(2):  # run, then answered from its folder
        assert run_here(*command) == 0
        out, err = capsys.readouterr()
        assert f"run folder  {folder}\n" in out
        assert f"metarun evaluate '{folder}' " in out
        assert err == ""
    assert run_here("evaluate", str(folder), "evaluation.tasks=2") == 0
    assert f"stored in {folder}/evaluations/" in capsys.readouterr().out
    assert run_here("ls", str(tmp_path)) == 0
    assert str(folder) in capsys.readouterr().out


def test_sentences_end_their_lines_at_blanks_and_paths_stay_whole():
    console = screen(20)
    tell(
        console,
        ("note:", "bold"),
        " /a/path/that/is/longer/than/a/line cannot be read, and 1.5 % is lost\n  next",
        indent=3,
    )
    assert recorded(console).splitlines() == [
        "note:",
        "   /a/path/that/is/longer/than/a/line",
        "   cannot be read,",
        "   and 1.5 % is lost",
        "  next",
    ]


def test_off_a_terminal_a_sentence_is_one_line(capsys):
    tell(terminal(width=20), "one two three four five six seven", indent=3)
    assert capsys.readouterr().out == "one two three four five six seven\n"
