"""The line of each key, whatever stands before it."""

from __future__ import annotations

import tomllib

import pytest

from pvemu.mkimage.toml_lines import key_lines

TEXT = """# a comment = 1
description = "x # no comment" # [[artifact]]

[[artifact]]
name = "one"
text = '''
[[artifact]]
name = "not a key"
'''
modules = [
  "a", # ]
  "name = 3",
]
"quoted key" = 1
dotted.key = 2

[[artifact]]
name = "two"
[[artifact.partition]]
text = \"\"\"
size = 1 \\"\"\" still inside
\"\"\"
size = "1MiB"
[artifact.partition.raid]
uuid = "u"
[[artifact.partition]]
size = "2MiB"
[[artifact.partition.partition]]
size = "3MiB"
[[artifact]]
raid = { uuid = "inline" }
[[artifact.partition]]
size = "4MiB"
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("description",), "description ="),
        (("artifact", 0), "[[artifact]]"),
        (("artifact", 0, "modules"), "modules ="),
        (("artifact", 0, "quoted key"), '"quoted key"'),
        (("artifact", 0, "dotted", "key"), "dotted.key"),
        (("artifact", 1, "name"), 'name = "two"'),
        (("artifact", 1, "partition", 0, "size"), 'size = "1MiB"'),
        (("artifact", 1, "partition", 0, "raid"), "[artifact.partition.raid]"),
        (("artifact", 1, "partition", 0, "raid", "uuid"), 'uuid = "u"'),
        (("artifact", 1, "partition", 1, "size"), 'size = "2MiB"'),
        (("artifact", 1, "partition", 1, "partition", 0, "size"), 'size = "3MiB"'),
        (("artifact", 2, "raid"), "raid = {"),
        (("artifact", 2, "partition", 0, "size"), 'size = "4MiB"'),
    ],
)
def test_a_key_is_where_it_is(path: tuple[str | int, ...], line: str) -> None:
    assert TEXT.splitlines()[key_lines(TEXT)[path] - 1].startswith(line)


def test_nothing_inside_a_string_or_an_array_is_a_key() -> None:
    tomllib.loads(TEXT)
    assert not [path for path in key_lines(TEXT) if "not a key" in path or (path[-1] == "text" and len(path) == 1)]
    assert len([path for path in key_lines(TEXT) if path[-1] == "size"]) == 4
