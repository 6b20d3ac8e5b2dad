"""Judge formulas with math-verify, in a process of its own that can be killed.

math-verify bounds its work by an alarm signal, which code inside C does not hear, and which a
thread cannot use; a formula such as ``9^{9^{9^9}}`` may also take all memory. So it works in a
child process under a memory limit. A comparison that takes too long costs this one comparison: the
child is killed, and the next one starts another child.

What is compared is data: only its LaTeX reader sees the texts. Its reader of plain expressions
ends in Python's ``eval`` and is never used.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from typing import IO, Literal

from posttrain.extras import require_extra
from posttrain.grading.equivalence import compare_formulas
from posttrain.grading.normalization import MOST_CHARACTERS

Judgement = Literal["equal", "different", "timeout", "error"]
_START_SECONDS = 60.0
_MOST_BYTES = 4 * 2**30
_MOST_REMEMBERED = 10_000


class FormulaGrader:
    """Compares formulas; to be used in a ``with`` block.

    Most are settled without algebra and without a process. What has been judged is remembered: a
    majority of samples gives the same answer, and one that hangs costs its time once.

    Args:
        seconds: Longest time for one comparison.

    Raises:
        MissingExtraError: math-verify is not installed.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        require_extra("math_verify", "math")
        self.seconds = seconds
        self.asked = 0
        """Comparisons that took algebra."""
        self._worker: _Worker | None = None
        self._known: dict[tuple[str, str], Judgement] = {}

    def __enter__(self) -> FormulaGrader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def judge(self, answer: str, reference: str) -> Judgement:
        """Compare an answer with the reference.

        Args:
            answer: A formula, LaTeX or plain.
            reference: The right one.

        Returns:
            ``equal``, ``different``, ``timeout`` where the comparison had to be given up, or
            ``error`` where the process ended under it, as for want of memory.
        """
        found = self._known.get((answer, reference))
        if found is None:
            equal = compare_formulas(answer, reference)
            if equal is None and max(len(answer), len(reference)) <= MOST_CHARACTERS:
                found = self._ask(answer, reference)
            else:
                found = "equal" if equal else "different"
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[answer, reference] = found
        return found

    def _ask(self, answer: str, reference: str) -> Judgement:
        self.asked += 1
        if self._worker is None:
            self._worker = _Worker()
        found = self._worker.ask([answer, reference], self.seconds)
        if found in ("timeout", "error"):
            self.close()
        return found

    def close(self) -> None:
        """End the process, if there is one; the next comparison starts another."""
        if self._worker:
            self._worker.stop()
            self._worker = None


class _Worker:
    """A child process that answers one line per line."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "posttrain.grading.math"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        assert self._process.stdin
        assert self._process.stdout
        self._questions: IO[str] = self._process.stdin
        # A pipe has no read with a time limit on every system; a queue has.
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        self._ready = False

    def _listen(self, answers: IO[str]) -> None:
        for line in answers:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, question: list[str], seconds: float) -> Judgement:
        """Compare two formulas; what the process does with them never takes longer."""
        try:
            if not self._ready:
                self._ready = self._answers.get(timeout=_START_SECONDS) == "ready\n"
            self._questions.write(json.dumps(question) + "\n")
            self._questions.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return "timeout"
        except OSError:
            return "error"
        if not answer:
            return "error"
        return "equal" if json.loads(answer) else "different"

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        # What it had not read yet is lost with it.
        with contextlib.suppress(BrokenPipeError):
            self._questions.close()
        assert self._process.stdout
        self._process.stdout.close()


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))


def _equal(answer: str, reference: str) -> bool:
    """Ask math-verify; only formulas in the box are looked at, never plain expressions."""
    library = require_extra("math_verify", "math")
    parsed = [
        library.parse(
            rf"$\boxed{{{text}}}$",
            extraction_config=[library.LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        for text in (reference, answer)
    ]
    return bool(parsed[0] and parsed[1]) and library.verify(
        *parsed, timeout_seconds=None, allow_set_relation_comp=True
    )


def _serve() -> None:
    """Answer questions from standard input until it ends."""
    import logging

    logging.disable(logging.CRITICAL)
    _limit_memory()
    _equal("1", "2")
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        try:
            found = _equal(*json.loads(line))
        except Exception:  # whatever sympy makes of a strange text, it is not equal
            found = False
        print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
