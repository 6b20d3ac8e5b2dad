"""Run a chat template once and write down what it did with the texts.

The texts go into the template as probes. A probe is not a string: whatever the template does with
it comes here, or fails. What is derived from it (``content.strip()``) is a probe again, which
knows the Python expression that derives it; what is asked about it (``'</think>' in content``) is
answered from the real text and kept as a guard. What comes out is the render as literals and
expressions: for any conversation to which the guards give the same answers, the template would do
the same, so that its render is the literals and the values of the expressions.

Whatever is not known to be safe makes the trace fail, and such conversations are always rendered
by the template itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CodeType
from typing import Any, NamedTuple

_DERIVING = {"strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}
_STRIPPING = {"strip", "lstrip", "rstrip"}
_LISTING = {"split", "rsplit", "splitlines", "partition", "rpartition"}
_ASKING = {"startswith", "endswith", "isspace", "isdigit", "isnumeric", "isalpha", "isalnum"}
_TEXT_METHODS = _DERIVING | _LISTING | _ASKING | {"replace"}
_JSON_MARK = "\ufdd3"


class UntraceableError(Exception):
    """The template does something with a text that cannot be repeated by rule."""


class RefusedError(UntraceableError):
    """The template refuses the conversation."""


class Tracer:
    """What one or several runs of a template have asked about the texts."""

    def __init__(self) -> None:
        self.guards: dict[str, Any] = {}
        """Python expressions and what they gave."""
        self.failure: str | None = None
        """Kept, since Jinja code may swallow exceptions."""

    def ask(self, source: str, answer: Any) -> Any:
        """Note what a question about the texts gave, and give it."""
        self.guards[source] = answer
        return answer

    def fail(self, why: str) -> Any:
        """Give the trace up."""
        self.failure = why
        raise UntraceableError(why)


class Probe:
    """Stands for a text, a mapping or a list of a conversation inside a template.

    Args:
        tracer: Who takes notes.
        real: The value in the conversation at hand.
        source: Python expression of it.
        field: The field of a message that it is a part of.
        whole: Whether it holds all of that field's words.
        clean: Whether it is a stretch of one of the conversation's own texts.
        parts: Of a text put together: literals and probes.
    """

    __slots__ = ("_clean", "_field", "_parts", "_real", "_source", "_tracer", "_whole")

    def __init__(
        self,
        tracer: Tracer,
        real: Any,
        source: str,
        *,
        field: str | None = None,
        whole: bool = False,
        clean: bool = True,
        parts: tuple[str | Probe, ...] = (),
    ) -> None:
        self._tracer = tracer
        self._real = real
        self._source = source
        self._field = field
        self._whole = whole
        self._clean = clean
        self._parts = parts

    def _derive(self, real: Any, source: str, *, whole: bool = False) -> Probe:
        tracer, field, clean = self._tracer, self._field, self._clean
        return Probe(tracer, real, source, field=field, whole=whole, clean=clean)

    def __getattr__(self, name: str) -> Any:
        real = self._real
        if name.startswith("_") or not hasattr(real, name):
            raise AttributeError(name)
        kind = type(real)
        if kind is str and name in _TEXT_METHODS:
            return lambda *arguments: self._call(name, arguments)
        if kind is dict and name in ("get", "items", "keys"):
            return getattr(self, f"_{name}")
        return self._tracer.fail(f"{kind.__name__}.{name}")

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        real = getattr(self._real, name)(*map(_real, arguments))
        source = f"{self._source}.{name}({', '.join(map(self._quote, arguments))})"
        if name in _ASKING:
            return self._tracer.ask(source, real)
        if name in _LISTING:
            return self._derive(list(real), source)
        if name == "replace":  # may put a special token together
            return Probe(self._tracer, real, source, field=self._field, clean=False)
        keeps = name in _STRIPPING and all(
            a is None or (type(a) is str and not a.strip()) for a in arguments
        )
        return self._derive(real, source, whole=self._whole and keeps)

    def _quote(self, value: Any) -> str:
        """Write a constant or a probe as Python."""
        if type(value) is Probe:
            return value._source
        if value is None or type(value) in (str, int, bool):
            return repr(value)
        if type(value) is tuple and all(type(item) is str for item in value):
            return repr(value)
        return self._tracer.fail(f"a {type(value).__name__} as an argument")

    def _get(self, key: Any, default: Any = None) -> Any:
        return self[key] if self._holds(key) else default

    def _keys(self) -> list[Any]:
        keys = list(self._real)
        self._tracer.ask(f"list({self._source})", keys)
        return keys

    def _items(self) -> list[tuple[Any, Any]]:
        return [(key, self[key]) for key in self._keys()]

    def _holds(self, item: Any) -> bool:
        answer = _real(item) in self._real
        return bool(self._tracer.ask(f"{self._quote(item)} in {self._source}", answer))

    def __contains__(self, item: Any) -> bool:
        return self._holds(item)

    def __getitem__(self, key: Any) -> Any:
        real = self._real
        if isinstance(key, slice):
            ends = (key.start, key.stop, key.step)
            if type(real) is dict or not all(e is None or type(e) is int for e in ends):
                return self._tracer.fail("a slice")
            start, stop, step = ("" if e is None else repr(e) for e in ends)
            return self._derive(real[key], f"{self._source}[{start}:{stop}:{step}]")
        if type(real) is dict:
            if type(key) is not str:
                return self._tracer.fail("a key that is no plain text")
            if not self._holds(key):
                raise KeyError(key)
        elif type(key) is not int:
            raise TypeError("indices must be integers")
        elif not -len(real) <= key < len(real):
            return self._tracer.fail("an index beyond the end")
        return self._item(key)

    def _item(self, key: str | int) -> Any:
        value, source = self._real[key], f"{self._source}[{key!r}]"
        if type(value) in (str, dict, list):
            self._tracer.ask(f"type({source}).__name__", type(value).__name__)
            return self._derive(value, source)
        self._tracer.ask(f"repr({source})", repr(value))
        return value

    def __iter__(self) -> Iterator[Any]:
        if type(self._real) is str:
            return self._tracer.fail("characters one by one")
        if type(self._real) is dict:
            return iter(self._keys())
        return iter([self._item(number) for number in range(len(self))])

    def __len__(self) -> int:
        return int(self._tracer.ask(f"len({self._source})", len(self._real)))

    def __bool__(self) -> bool:
        return bool(self._tracer.ask(f"bool({self._source})", bool(self._real)))

    def __eq__(self, other: object) -> Any:
        if type(other) in (dict, list):
            return self._tracer.fail("a comparison with a collection")
        if type(other) is not Probe and type(other) is not str:
            return NotImplemented
        source = f"{self._source} == {self._quote(other)}"
        return self._tracer.ask(source, self._real == _real(other))

    def __ne__(self, other: object) -> Any:
        return NotImplemented if (equal := self.__eq__(other)) is NotImplemented else not equal

    def __add__(self, other: Any) -> Any:
        return self._join(self, other)

    def __radd__(self, other: Any) -> Any:
        return self._join(other, self)

    def _join(self, *parts: Any) -> Any:
        if not all(type(_real(part)) is str for part in parts):
            return self._tracer.fail("a sum that is no text")
        return join(parts)


def _refuse(name: str) -> Callable[..., Any]:
    def method(self: Probe, *_: Any) -> Any:
        return self._tracer.fail(name)

    return method


# What a template could do with a value besides; left out, Python or Jinja might find a way of
# their own that gives something else than for a real text.
_REFUSED = (
    "hash str repr format lt le gt ge mul rmul mod rmod sub rsub truediv rtruediv floordiv "
    "int float complex index round trunc reversed neg pos abs iadd"
)
for _name in _REFUSED.split():
    setattr(Probe, f"__{_name}__", _refuse(_name))


def _real(value: Any) -> Any:
    return value._real if type(value) is Probe else value


def join(values: Iterable[Any]) -> Any:
    """Join texts and probes of texts; a text where no probe is among them."""
    parts: list[str | Probe] = []
    for value in values:
        if type(value) is Probe and value._parts:
            parts.extend(value._parts)
        elif value != "" if type(value) is str else True:
            parts.append(value)
    probes = [part for part in parts if type(part) is Probe]
    if not probes:
        return "".join(map(str, parts))
    if len(parts) == 1:
        return parts[0]
    tracer = probes[0]._tracer
    if any(type(probe._real) is not str for probe in probes):
        return tracer.fail("a collection as text")
    source = " + ".join(p._source if type(p) is Probe else repr(p) for p in parts)
    real = "".join(map(_real, parts))
    return Probe(tracer, real, f"({source})", clean=False, parts=tuple(parts))


class Atom(NamedTuple):
    """A stretch of a render."""

    text: str
    """What it is in the conversation at hand."""
    source: str = ""
    """Python expression that gives it; empty for a literal."""
    field: str | None = None
    """The message's field that it is a part of."""
    whole: bool = False
    """Whether it holds all of that field's words."""
    clean: bool = True
    """Whether it is a literal or a stretch of one of the conversation's own texts."""


class TracedTemplate:
    """A compiled template to be run with probes.

    Args:
        compiled: The Jinja template as transformers compiles it.
        source: Its text.
    """

    def __init__(self, compiled: Any, source: str) -> None:
        environment = compiled.environment.overlay()
        environment.filters = {**environment.filters, **_filters(environment.filters)}
        environment.tests = {**environment.tests, **_tests(environment.tests)}
        environment.concat = join
        code: CodeType = environment.compile(source)
        names: dict[str, Any] = {"environment": environment, "__file__": "<template>"}
        # What Jinja itself does to load a template. The sandbox is in the code and the environment.
        exec(code, names)  # noqa: S102
        names["str"] = _as_text
        names["str_join"] = lambda values: join(map(_as_text, values))
        self._template = environment.template_class.from_module_dict(
            environment, names, compiled.globals
        )

    def run(self, variables: dict[str, Any], tracer: Tracer) -> list[Atom]:
        """Render.

        Args:
            variables: What the template is given, its texts as probes of this tracer.
            tracer: Takes the notes.

        Raises:
            RefusedError: The template refuses the conversation.
            UntraceableError: The template does something that cannot be repeated by rule.
        """
        template = self._template
        try:
            value = join(template.root_render_func(template.new_context(variables)))
        except UntraceableError:
            raise
        except Exception as error:
            import jinja2

            if tracer.failure is None and isinstance(error, jinja2.exceptions.TemplateError):
                raise RefusedError(str(error)) from error
            raise UntraceableError(f"{type(error).__name__}: {error}") from error
        if tracer.failure is not None:
            raise UntraceableError(tracer.failure)
        return _merge(value)


def _merge(value: str | Probe) -> list[Atom]:
    """Put neighbouring literals together."""
    parts: Sequence[str | Probe] = value._parts or (value,) if type(value) is Probe else (value,)
    atoms: list[Atom] = []
    for part in parts:
        if type(part) is Probe:
            atoms.append(Atom(part._real, part._source, part._field, part._whole, part._clean))
        elif atoms and not atoms[-1].source:
            atoms[-1] = Atom(atoms[-1].text + str(part))
        else:
            atoms.append(Atom(str(part)))
    return atoms


def _as_text(value: Any = "") -> Any:
    return value if type(value) is Probe else str(value)


def _filters(own: Any) -> dict[str, Any]:
    """Filters that know probes; the others meet a probe's refusals."""

    def trim(value: Any, chars: Any = None) -> Any:
        return value.strip(chars) if type(value) is Probe else own["trim"](value, chars)

    def tojson(value: Any, **options: Any) -> Any:
        return _dump(value, options) if _holds_probe(value) else own["tojson"](value, **options)

    def items(value: Any) -> Any:
        return iter(value.items()) if type(value) is Probe else own["items"](value)

    return {"items": items, "string": _as_text, "tojson": tojson, "trim": trim}


def _tests(own: Any) -> dict[str, Any]:
    """Tests of a value's kind, which must see through a probe."""

    def kind(name: str) -> Callable[[Any], bool]:
        return lambda value: own[name](_real(value))

    def sameas(value: Any, other: Any) -> bool:
        for probe in (value, other):
            if type(probe) is Probe:
                return bool(probe._tracer.fail("sameas"))
        return bool(own["sameas"](value, other))

    kinds = {name: kind(name) for name in ("string", "mapping", "iterable", "sequence")}
    return {**kinds, "sameas": sameas}


def _holds_probe(value: Any) -> bool:
    if type(value) is Probe:
        return True
    if isinstance(value, dict):
        return any(map(_holds_probe, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_probe, value))


def _dump(value: Any, options: dict[str, Any]) -> Any:
    """Write JSON with probes in it; the options are those of transformers' filter."""
    options = {"ensure_ascii": False, **options}
    found: list[Probe] = []

    def stand_in(probe: Any) -> str:
        if type(probe) is not Probe:
            raise TypeError(f"a {type(probe).__name__} is not JSON")
        nested_deep = type(probe._real) is not str and options.get("indent") is not None
        if options["ensure_ascii"] or (probe is not value and nested_deep):
            return str(probe._tracer.fail("JSON of this form"))
        found.append(probe)
        return _JSON_MARK

    written = json.dumps(value, default=stand_in, **options)
    literals = written.split(f'"{_JSON_MARK}"')
    parts: list[Any] = [literals[0]]
    for probe, literal in zip(found, literals[1:], strict=True):
        arguments = ", ".join(f"{name}={option!r}" for name, option in options.items())
        source = f"as_json({probe._source}, {arguments})"
        if options == {"ensure_ascii": False}:
            source = f"as_plain_json({probe._source})"
        text = json.dumps(probe._real, **options)
        parts += [Probe(probe._tracer, text, source, field=probe._field, clean=False), literal]
    return join(parts)
