"""Where predictions belong in a labelling configuration of Label Studio: its tags, and what they are called."""

from dataclasses import dataclass
from typing import Any, Literal
from xml.parsers import expat

from saot.data import ClassSet

Kind = Literal["brush", "bitmask"]
TAGS: dict[Kind, str] = {"brush": "BrushLabels", "bitmask": "BitmaskLabels"}
LONGEST = 1 << 20  # characters of a configuration
DEEPEST = 100  # tags in one another


@dataclass(frozen=True)
class Tags:
    """The tags that regions refer to; as `saot.annotate.labelling_config` writes them unless given.

    Attributes:
        kind: Of the regions.
        from_name: Name of the tag that has the labels.
        to_name: Name of the picture's tag.
        key: Of the picture in a task's data.
    """

    kind: Kind = "brush"
    from_name: str = "label"
    to_name: str = "image"
    key: str = "image"


def tags_of(config: str, classes: ClassSet) -> Tags:
    """The tags of a labelling configuration that masks of these classes fit; bit masks before brushes.

    Args:
        config: The XML of the project's settings.
        classes: Their names have to be the labels.

    Raises:
        ValueError: If it is no such XML, has no such tags, or other labels.

    Example:
        >>> from saot.data import folder_class_set
        >>> labels = '<BitmaskLabels name="what" toName="photo"><Label value="sky"/></BitmaskLabels>'
        >>> tags_of(f'<View><Image name="photo" value="$file"/>{labels}</View>', folder_class_set(["sky"]))
        Tags(kind='bitmask', from_name='what', to_name='photo', key='file')
    """
    found = _Reader().read(config)
    kinds: tuple[Kind, ...] = ("bitmask", "brush")
    for kind in kinds:
        for name, to_name, labels in found.controls[kind]:
            if to_name not in found.pictures:
                raise ValueError(
                    f"expected an <Image name={to_name!r}> in the labelling configuration, which <{TAGS[kind]}> names; "
                    f"it has {sorted(found.pictures)}: mend toName"
                )
            _check_labels(labels, classes, TAGS[kind])
            return Tags(kind, name, to_name, found.pictures[to_name])
    raise ValueError(
        f"expected <{TAGS['brush']}> or <{TAGS['bitmask']}> in the labelling configuration; it has neither: "
        "take the one that saot.annotate.labelling_config writes"
    )


def _check_labels(labels: list[str], classes: ClassSet, tag: str) -> None:
    unknown = [label for label in labels if label not in classes.names]
    missing = [name for name in classes.names if name not in labels]
    if unknown or missing:
        raise ValueError(
            f"expected the run's {len(classes.names)} classes as labels of <{tag}>; "
            + " and ".join(
                [f"the run does not know {_some(unknown)}"] * bool(unknown)
                + [f"the configuration lacks {_some(missing)}"] * bool(missing)
            )
            + ": take the configuration that saot.annotate.labelling_config writes"
        )


def _some(names: list[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


class _Reader:
    """Events of the parser as tags."""

    def __init__(self) -> None:
        self.pictures: dict[str, str] = {}
        self.controls: dict[Kind, list[tuple[str, str, list[str]]]] = {kind: [] for kind in TAGS}
        self.open: list[list[str] | None] = []  # for each open tag the labels that it collects
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = lambda _: self.open.pop()
        self.parser.StartDoctypeDeclHandler = self._refuse

    def read(self, config: str) -> "_Reader":
        if len(config) > LONGEST:
            raise ValueError(
                f"expected a labelling configuration of at most {LONGEST:,} characters; got {len(config):,}"
            )
        try:
            self.parser.Parse(config.encode("utf-8", "replace"), True)
        except expat.ExpatError as error:
            raise ValueError(f"expected the labelling configuration as XML; {error}: copy it again") from error
        return self

    def _refuse(self, *_: Any) -> None:
        raise ValueError("expected a labelling configuration; it declares a document type, which none needs")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.open) >= DEEPEST:
            raise ValueError(f"expected at most {DEEPEST} tags in one another in the labelling configuration; got more")
        collected = self.open[-1] if self.open else None
        if tag == "Label" and collected is not None:
            collected.append(attributes.get("alias") or attributes.get("value", ""))
        kind: Kind | None = next((kind for kind, name in TAGS.items() if name == tag), None)
        if kind is not None:
            collected = []
            self.controls[kind].append((attributes.get("name", ""), attributes.get("toName", ""), collected))
        elif tag == "Image" and attributes.get("value", "").startswith("$"):
            self.pictures[attributes.get("name", "")] = attributes["value"][1:]
        self.open.append(collected)
