"""Templates of prompts in Jinja, in a sandbox; checked without being rendered."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from jinja2 import Template

PROMPT_NAMES = ("problem", "instruction", "question", "passage", "options", "row")
"""What a prompt may speak of."""


@cache
def compile_prompt(text: str) -> Template:
    """Compile a prompt; a field that a row lacks raises when it is rendered.

    Raises:
        ValueError: It is not well formed, or speaks of what there is not.
    """
    import jinja2
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        names = meta.find_undeclared_variables(environment.parse(text))
        template = environment.from_string(text)
    except jinja2.TemplateError as error:
        raise ValueError(f"not a template: {error}") from None
    if unknown := sorted(names - set(PROMPT_NAMES)):
        raise ValueError(
            f"knows no `{unknown[0]}`, only {', '.join(PROMPT_NAMES)}; a field of the row is "
            f"`row.{unknown[0]}`"
        )
    return template


def _check(text: str) -> str:
    compile_prompt(text)
    return text


PromptText = Annotated[str, Field(min_length=1), AfterValidator(_check)]
