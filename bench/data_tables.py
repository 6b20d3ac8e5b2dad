"""What ``bench/data.py`` has measured, as Markdown."""

from typing import Any


def show_prepare(found: dict[str, Any]) -> str:
    lines = [
        f"{found['rows']:,} rows, template: {found['template']}",
        "",
        "| workers | ours, all of it, rows/s | TRL, rows/s | ratio | of core seconds "
        "| ours, rows in memory as TRL's | ratio | rows compared | same ids | same masks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for workers, one in found["workers"].items():
        equal = one["equality"]
        lines.append(
            f"| {workers} | {one['ours']['median']:,.0f} | {one['peer']['median']:,.0f} | "
            f"{show_ratio(one['ratio'])} | {show_ratio(one['core_ratio'])} | "
            f"{one['encode']['median']:,.0f} | {show_ratio(one['encode_ratio'])} | "
            f"{equal['compared']:,} | {equal['same_ids']:,} | {equal['same_masks']:,} |"
        )
    one = next(iter(found["workers"].values()))
    side, equal = one["last"]["ours"], one["equality"]
    learned = found["learned"]
    lines += [
        "",
        f"once per tokenizer, besides: {learned['seconds']:.1f} s ({learned['codec']}"
        f"{learned['reason'] and ': ' + learned['reason']})",
        f"tokens: median {side['median_tokens']:.0f}, mean {side['mean_tokens']:.0f}, "
        f"p99 {side['p99_tokens']:.0f}; fill of the plan "
        f"{side['tokens'] / side['batches'] / 8192:.2%}, planned in {one['plan_seconds']:.3f} s; "
        f"not used: {side['rejects'] or 'none'}; rows of one side only: ours "
        f"{equal['only_ours']}, TRL {equal['only_peer']}",
        f"other ids in lines: {equal['first_different_lines'] or 'none'}; tokens that one side "
        f"alone trains: {equal['tokens_that_one_side_alone_trains'] or 'none'}",
    ]
    return "\n".join(lines)


def show_warm(found: dict[str, Any]) -> str:
    lines = [f"{found['rows']:,} rows, all cached", "", "| | to the first batch | of which |"]
    lines.append("|---|---|---|")
    for side, name in (("ours", "ours"), ("peer", "TRL")):
        parts = {k: v for k, v in found["parts"][side].items() if k not in ("seconds", "keys")}
        shown = ", ".join(f"{part} {seconds:.3f}" for part, seconds in parts.items())
        one = found["seconds"][side]
        lines.append(f"| {name} | {one['median']:.3f} s [{one['lowest']:.3f}-{one['highest']:.3f}]")
        lines[-1] += f" | {shown} |"
    return "\n".join([*lines, "", "The tokenizer's own loading is not part of the sum."])


def show_packing(found: dict[str, Any]) -> str:
    seconds = found["seconds"]
    return "\n".join(
        [
            f"{found['count']:,} lengths, {found['tokens']:,} tokens, 8,192 a batch",
            "",
            "| | seconds | fill |",
            "|---|---|---|",
            f"| ours (plan) | {seconds['ours']['median']:.3f} | {found['fill_ours']:.2%} |",
            f"| TRL (packs rows) | {seconds['peer']['median']:.3f} | {found['fill_peer']:.2%} |",
        ]
    )


def show_memory(found: dict[str, Any]) -> str:
    lines = [
        "| rows | mean tokens | workers | rows/s | parent, peak | of it no mapped files "
        "| all processes, shared pages once | before it began |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found["runs"]:
        peak, before = one["peak_bytes"], one["before_bytes"]
        lines.append(
            f"| {one['rows']:,} | {one['mean_tokens']:.0f} | {one['workers']} | "
            f"{one['rows_per_second']:,.0f} | {show_bytes(peak['parent_peak_rss'])} | "
            f"{show_bytes(peak['parent_without_files'])} | {show_bytes(peak['family_pss'])} | "
            f"{show_bytes(before['parent_rss'])} |"
        )
    return "\n".join(lines)


def show_ratio(one: dict[str, Any]) -> str:
    return f"{one['median']:.2f} [{one['lowest']:.2f}-{one['highest']:.2f}]"


def show_bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
