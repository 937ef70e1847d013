"""The table of contents of a schema archive, split into what comes before and after the data."""

from __future__ import annotations

from replication.schema_archive import KeyEntries, TocEntry, attach_line, parse_list, split_contents

LISTING = """;
; Archive created at 2026-01-01 00:00:00 UTC
;     dbname: a
;
; Selected TOC Entries:
;
2738; 2606 16821 CONSTRAINT Weird Schema Ta ble; "q" Ta ble; "q"_pkey postgres
2719; 2606 16847 CONSTRAINT app orders ex postgres
2736; 1259 16814 INDEX app by_index_a postgres
2720; 1259 16773 INDEX app orders_note postgres
2740; 0 0 INDEX ATTACH app events_2024_day_idx postgres
2741; 0 0 INDEX ATTACH app events_2024_pkey postgres
2747; 2606 16768 FK CONSTRAINT app orders orders_boss_fkey postgres
"""


def test_comments_are_left_out_and_names_may_hold_anything() -> None:
    entries = parse_list(LISTING)
    assert [entry.number for entry in entries] == [2738, 2719, 2736, 2720, 2740, 2741, 2747]
    assert entries[0] == TocEntry(2738, 2606, 16821, 'CONSTRAINT Weird Schema Ta ble; "q" Ta ble; "q"_pkey postgres')
    assert (entries[4].classid, entries[4].objid) == (0, 0)


def test_keys_are_known_by_oid_and_attachments_by_their_line() -> None:
    keys = KeyEntries(
        objects=frozenset({(2606, 16821), (1259, 16814)}),
        attached=frozenset({attach_line("app", "events_2024_pkey", "postgres")}),
    )
    base = parse_list("8; 2615 16393 SCHEMA - app postgres\n")
    contents = split_contents(base, parse_list(LISTING), keys)
    assert [entry.number for entry in contents.base] == [8]
    assert [entry.number for entry in contents.keys] == [2738, 2736, 2741]
    assert [entry.number for entry in contents.rest] == [2719, 2720, 2740, 2747]


def test_the_order_of_the_archive_is_kept() -> None:
    entries = tuple(TocEntry(number, 1, number, "x") for number in (5, 3, 9, 1))
    contents = split_contents((), entries, KeyEntries(frozenset({(1, 9), (1, 5)}), frozenset()))
    assert [entry.number for entry in contents.keys] == [5, 9]
    assert [entry.number for entry in contents.rest] == [3, 1]


def test_line_breaks_in_names_are_spaces_in_the_list() -> None:
    assert attach_line("a\nb", "c\rd", "e") == "INDEX ATTACH a b c d e"
