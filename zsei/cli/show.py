"""`zsei show`: one analysis or measurement out of memory."""

from zsei.cli import codes
from zsei.cli.options import Json, Run, settings


def show(run: Run, as_json: Json = False) -> int:
    """Show one analysis or measurement out of memory."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory.documents import get_document
        from zsei.memory.store import Memory

        memory = Memory(settings().home)
        document = get_document(memory, run)
        if as_json:
            stdout.write((document or memory.get(run)).model_dump_json() + "\n")
        elif document is not None:
            from zsei.memory.document_lines import lines_of
            from zsei.report import plain

            screen = console(stdout)
            plain.title(screen, f"{document.id} {document.model} {document.created}")
            for line in lines_of(document):
                plain.paragraph(screen, line.text)
        else:
            from zsei.report import terminal

            terminal.summary(memory.get(run), console(stdout))
        return codes.DONE
