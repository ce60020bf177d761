"""Data as text and as JSON."""

import json
from datetime import UTC, datetime

from loradock.cli.graph import dot_lines, mermaid_lines, tree_lines
from loradock.cli.output import json_of, print_json, show_record, show_table, size_text
from loradock.client import (
    Blob,
    Dataset,
    LineageEdge,
    LineageGraph,
    LineageKind,
    LineageNode,
    Residency,
    ResidencyState,
    TextChunk,
)

RESIDENCY = Residency("sha256:1", ResidencyState.RESIDENT, 10, 0, "")


def test_json_has_fields_values_and_times(capsys):
    print_json({"r": RESIDENCY, "at": datetime(2026, 1, 2, tzinfo=UTC), "of": (Dataset("ä", "d"),)})
    assert json.loads(capsys.readouterr().out) == {
        "r": {
            "version_digest": "sha256:1",
            "state": "resident",
            "size_bytes": 10,
            "num_leases": 0,
            "reason": None,
            "adapter": None,
            "version_number": None,
            "live_aliases": [],
            "pinned": False,
            "num_hits": 0,
            "last_use_time": None,
            "load_s": 0.0,
            "last_error": None,
            "retry_time": None,
            "num_output_tokens": 0,
        },
        "at": "2026-01-02T00:00:00+00:00",
        "of": [{"name": "ä", "digest": "d"}],
    }


def test_table_off_a_terminal_is_plain_and_whole(capsys):
    rows = ["x" * 300, "[red]y"]
    show_table(rows, {"name": lambda r: r, "length": len}, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "LENGTH"]
    assert lines[1].split() == ["x" * 300, "300"]
    assert lines[2].split() == ["[red]y", "6"]
    assert "\x1b" not in "".join(lines)


def test_empty_table(capsys):
    show_table([], {"name": str}, as_json=False)
    assert capsys.readouterr().out == "NAME\n"
    show_table([], {"name": str}, as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_record_leaves_out_what_is_empty(capsys):
    show_record(RESIDENCY, {"version": "v", "reason": "", "leases": 0, "by": None}, as_json=False)
    assert capsys.readouterr().out == "version:  v\nleases:   0\nby:       -\n"


def test_sizes():
    assert [size_text(n) for n in (0, 1023, 1536, 3 << 20, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]


def test_lineage_tree():
    def node(kind, name):
        return LineageNode(kind, name, f"{name}!")

    graph = LineageGraph(
        "v2",
        (
            node(LineageKind.VERSION, "v2"),
            node(LineageKind.VERSION, "v1"),
            node(LineageKind.BASE, "b"),
            node(LineageKind.DATASET, "d"),
        ),
        (
            LineageEdge(LineageKind.PARENT, "v2", "v1"),
            LineageEdge(LineageKind.BASE, "v2", "b"),
            LineageEdge(LineageKind.BASE, "v1", "b"),
            LineageEdge(LineageKind.DATASET, "v1", "d"),
        ),
    )
    assert list(tree_lines(graph, down=False)) == [
        "version v2! (v2)",
        "├── base b! (b)",
        "└── version v1! (v1)",
        "    ├── base b! (b)",
        "    └── dataset d! (d)",
    ]
    down = LineageGraph("b", graph.nodes, graph.edges)
    assert list(tree_lines(down, down=True)) == [
        "base b! (b)",
        "├── version v1! (v1)",
        "│   └── version v2! (v2)",
        "└── version v2! (v2)",
    ]


def test_graphs_quote_what_their_languages_would_take_for_their_own():
    nodes = (
        LineageNode(LineageKind.VERSION, "v", 'a"b\\c'),
        LineageNode(LineageKind.DATASET, "d", "x<y>#1"),
    )
    edges = (LineageEdge(LineageKind.MERGE_OF, "v", "d"),)
    graph = LineageGraph("v", nodes, edges)
    dot = list(dot_lines(graph))
    assert dot[2] == '  "v" [label="a\\"b\\\\c (v)", shape=box, style=bold];'
    assert dot[4] == '  "d" -> "v" [label="merge-of"];'
    assert list(mermaid_lines(graph)) == [
        "flowchart LR",
        '  n0["a#quot;b\\c (v)"]',
        '  n1[("x#lt;y#gt;#35;1 (d)")]',
        "  n1 -->|merge-of| n0",
    ]


def test_what_is_absent_is_null_and_an_empty_answer_is_not():
    kept = json_of(TextChunk("", (), ()))
    assert kept["text"] == ""
    told = json_of(Blob("", 3))
    assert told == {"digest": None, "size_bytes": 3}
