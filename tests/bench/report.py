"""Reports of the measurements, for people (Markdown and a plot) and for programs (JSON)."""

import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from typing import Optional

OK, MISSED = "ok", "MISSED"


@dataclass
class Ratio:
    """Throughput of one series divided by that of another in the same alternation; the median over the alternations."""

    top: str
    bottom: str
    title: str
    target: Optional[float]  # minimum
    values: list = field(default_factory=list)

    def measure(self, series):
        """True when both were measured."""
        pairs = zip(series.get(self.top, []), series.get(self.bottom, []))
        self.values = [top.rate / bottom.rate for top, bottom in pairs if bottom.rate]
        return bool(self.values)

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def verdict(self):
        return "" if self.target is None else OK if self.median >= self.target else MISSED


@dataclass
class Figure:
    """A figure with a target as its maximum."""

    title: str
    values: list
    unit: str
    target: Optional[float]

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def verdict(self):
        return "" if self.target is None else OK if self.median <= self.target else MISSED


@dataclass
class Results:
    date: str
    machine: dict
    versions: dict
    fsync_ms: float
    options: object
    shape: str
    workers: int
    tenants: int
    connections: int
    titles: dict  # series -> title
    series: dict
    cost: dict
    latency: dict
    others: list  # share of the processors taken by other programs, per measurement
    repeated: int  # alternations repeated because of other programs
    rows: int
    ratios: list
    figures: list
    failures: list
    skipped: list

    def missed(self):
        return [each.title for each in self.ratios + self.figures if each.verdict == MISSED]

    def exit_status(self):
        return 1 if self.failures else 3 if self.missed() else 0

    def verdict(self):
        if self.failures:
            return "**%d correctness checks FAILED**" % len(self.failures)
        missed = self.missed()
        checked = sum(1 for each in self.ratios + self.figures if each.verdict)
        return "%d of %d targets met, every count exact" % (checked - len(missed), checked)


def table(head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in [head] + rows]
    return "\n".join([lines[0], "|" + "---|" * len(head)] + lines[1:])


def spread_of(values, form):
    return "%s – %s" % (form % min(values), form % max(values)) if len(values) > 1 else "one value"


def number(value):
    return format(round(value), ",")


def counted(count, thing):
    return "%d %s%s" % (count, thing, "" if count == 1 else "s")


def ratio_rows(results):
    return [[ratio.title, "%.3f" % ratio.median, spread_of(ratio.values, "%.3f"),
             "≥ %.2f" % ratio.target if ratio.target is not None else "", ratio.verdict] for ratio in results.ratios]


def series_title(results, name):
    server, _, call = name.rpartition("/")
    return "%s: %s" % (server, results.titles[call]) if server else results.titles[name]


def place_of(results, name):
    """Sorts other servers last, each with its calls in the order of the titles."""
    server, _, call = name.rpartition("/")
    return list(results.series).index(name) // 2 if server else -1, list(results.titles).index(call)


def series_rows(results):
    rows = []
    for name, runs in sorted(results.series.items(), key=lambda each: place_of(results, each[0])):
        rates = [run.rate for run in runs]
        cost = [statistics.median(values) for values in zip(*results.cost.get(name, []))]
        rows.append([series_title(results, name), number(statistics.median(rates)), spread_of(rates, "%.0f"),
                     "%.2f / %.2f" % tuple(statistics.median(getattr(run, p) for run in runs) / 1000
                                           for p in ("p50_us", "p99_us")) if runs[0].p50_us else "",
                     "%.0f" % cost[0] if cost and name != "insert" else "",
                     "%.0f" % cost[1] if cost and name != "nothing" else "",
                     "%.0f" % cost[2] if cost and name != "insert" else ""])
    return rows


def figure_rows(results):
    rows = []
    for figure in results.figures:
        unit = " " + figure.unit if figure.unit else ""
        rows.append([figure.title, "%.2f%s" % (figure.median, unit), spread_of(figure.values, "%.2f"),
                     "≤ %g%s" % (figure.target, unit) if figure.target is not None else "", figure.verdict])
    return rows


def machine_text(results):
    machine, versions = results.machine, results.versions
    return ("%d cores (%s%s), %s, %s, kernel %s; %s; an 8 KiB write and fdatasync takes %.2f ms (median)." % (
        machine["cores"], machine["processor"], ", virtual" if machine["virtual machine"] else "",
        machine["memory"], machine["system"], machine["kernel"],
        ", ".join("%s %s" % pair for pair in versions.items()), results.fsync_ms))


def strangers_text(rounds, options):
    return ("Programs that do not belong to the benchmark took %.0f %% of the processors (median; at most %.0f %%); %s "
            "discarded and repeated because they took more than %d %%." % (
                100 * statistics.median(rounds.others), 100 * max(rounds.others),
                counted(rounds.repeated, "alternation"), options.tolerate))


def method_text(results):
    options = results.options
    return ("Load generator, web server, responder and PostgreSQL share the machine; PostgreSQL commits durably. wrk, "
            "%d connections, keys of %s tenants at random; lighttpd with the same configuration before both "
            "responders, which have %s. %s of %d s, every other one in reverse order; a ratio is taken within an "
            "alternation, and the median and spread over them are shown. After each measurement the audit rows were "
            "compared with the successes (%s rows at the end). %s" % (
                results.connections, format(results.tenants, ","), results.shape,
                counted(options.alternations, "alternation"), options.seconds, format(results.rows, ","),
                strangers_text(results, options) if results.others else ""))


def markdown(results):
    parts = ["# Benchmark of %s" % results.date, results.verdict() + ".", machine_text(results), method_text(results)]
    if results.ratios:
        parts.append(table(["Ratio", "median", "spread", "target", ""], ratio_rows(results)))
    if results.series:
        parts.append(table(["Measured", "per second", "spread", "p50 / p99 at full load (ms)", "responder µs/call",
                            "PostgreSQL µs/call", "web server and load µs/call"], series_rows(results)))
    if results.figures:
        parts.append(table(["Figure", "median", "spread", "target", ""], figure_rows(results)))
    if results.skipped:
        parts.append("\n".join("- not measured: %s (%s)" % pair for pair in results.skipped))
    if results.failures:
        parts.append("\n".join("- FAILED: " + failure for failure in results.failures))
    return "\n\n".join(parts) + "\n"


def as_json(results):
    found = {name: value for name, value in vars(results).items() if name != "options"}
    found["options"] = {name: sorted(value) if isinstance(value, set) else value
                        for name, value in vars(results.options).items()}
    for kind in ("series", "latency"):
        found[kind] = {name: [{**asdict(run), "rate": run.rate} for run in runs] for name, runs in found[kind].items()}
    for kind in ("ratios", "figures"):
        found[kind] = [{**asdict(each), "median": each.median, "verdict": each.verdict} for each in found[kind]]
    found["exit_status"] = results.exit_status()
    return json.dumps(found, indent=1, ensure_ascii=False)


# The plot ------------------------------------------------------------------------------------------------------------

STYLE = """
	text { font: 13px system-ui, sans-serif; fill: #1f2328 } .small { font-size: 11px; fill: #59636e }
	.track { fill: #eaeef2 } .met { fill: #2da44e } .missed { fill: #cf222e } .plain { fill: #218bff }
	.spread { stroke: #1f2328; stroke-width: 1.5 } .target { stroke: #8250df; stroke-width: 2 }
	@media (prefers-color-scheme: dark) {
		text { fill: #e6edf3 } .small { fill: #9198a1 } .track { fill: #2a313c } .met { fill: #3fb950 }
		.missed { fill: #f85149 } .plain { fill: #58a6ff } .spread { stroke: #e6edf3 } .target { stroke: #bc8cff }
	}"""
WIDTH, LEFT, BAR_WIDTH, STEP = 860, 20, 720, 46


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def bar(ratio, y, scale):
    """Title, bar, whisker from the lowest to the highest alternation, target line, figure."""
    def x(value):
        return LEFT + min(value / scale, 1) * BAR_WIDTH
    kind = {OK: "met", MISSED: "missed"}.get(ratio.verdict, "plain")
    middle = y + 25
    parts = ['<text x="%d" y="%d">%s</text>' % (LEFT, y + 12, escaped(ratio.title)),
             '<rect class="track" x="%d" y="%d" width="%d" height="14" rx="3"/>' % (LEFT, y + 18, BAR_WIDTH),
             '<rect class="%s" x="%d" y="%d" width="%.1f" height="14" rx="3"/>' % (kind, LEFT, y + 18,
                                                                                x(ratio.median) - LEFT)]
    for one, other, top, bottom in ((min(ratio.values), max(ratio.values), middle, middle),
                                    (min(ratio.values),) * 2 + (middle - 4, middle + 4),
                                    (max(ratio.values),) * 2 + (middle - 4, middle + 4)):
        parts.append('<line class="spread" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>' % (x(one), top, x(other), bottom))
    if ratio.target is not None:
        parts.append('<line class="target" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>' % (x(ratio.target), y + 14,
                                                                                    x(ratio.target), y + 36))
    figure_text = "%.2f%s" % (ratio.median, " of %.2f" % ratio.target if ratio.target is not None else "")
    parts.append('<text x="%d" y="%d">%s</text>' % (LEFT + BAR_WIDTH + 8, y + 30, figure_text))
    return "\n".join(parts)


def svg(results):
    """Draws bars of the ratios. A bar with a target is green or red; the upright line is the target."""
    scale = max([1.0] + [ratio.median for ratio in results.ratios])
    height = 50 + STEP * len(results.ratios)
    bars = "\n".join(bar(ratio, 40 + STEP * row, scale) for row, ratio in enumerate(results.ratios))
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="Throughput ratios">\n'
            "<style>%s\n</style>\n"
            '<text class="small" x="%d" y="20">Throughput as ratios, %s: median, spread over %d alternations '
            "(whisker), target (upright line)</text>\n%s\n</svg>\n" % (
                WIDTH, height, STYLE, LEFT, escaped(results.date), results.options.alternations, bars))


def files(out):
    stem = os.path.splitext(out)[0]
    return [out, stem + ".json", stem + ".svg"]


def write(results, out):
    os.makedirs(os.path.dirname(out), exist_ok=True)
    for path, text in zip(files(out), (markdown(results), as_json(results), svg(results))):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
