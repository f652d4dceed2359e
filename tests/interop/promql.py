"""Queries of Prometheus, judged by a parser of its language and by what the metrics and their labels are."""

import re

import promql_parser as parser

OF_A_HISTOGRAM = {"_bucket": {"le": None}, "_sum": {}, "_count": {}}
FOREIGN = {"up": {"job": None, "instance": None}}
"""What Prometheus says itself of each target."""


def _walked(query) -> list:
    """The query and all its parts."""
    found = []
    parser.walk(parser.parse(query), found.append)
    return found


def _selectors(parts) -> list:
    return [part for part in parts if isinstance(part, parser.VectorSelector)] + [
        part.vector_selector for part in parts if isinstance(part, parser.MatrixSelector)
    ]


def metrics(query) -> set[str]:
    """The names that it asks for."""
    return {selector.name for selector in _selectors(_walked(query))}


def _labels(name, page):
    """The labels of a series with all that they can say, or what is wrong with its name."""
    if name in FOREIGN:
        return FOREIGN[name]
    # As every client of Prometheus has them; none has a label.
    if name.startswith("process_"):
        return {}
    base, suffix = next(((name.removesuffix(end), end) for end in OF_A_HISTOGRAM if name.endswith(end)), (name, ""))
    is_histogram = lambda name: name in page and name.endswith("_seconds") and "_tls_end_" not in name
    if suffix and is_histogram(base):
        return page[base] | OF_A_HISTOGRAM[suffix]
    if is_histogram(name):
        return f"{name} is a histogram: ask for its buckets, sum or count"
    return page.get(name, f"there is no {name}")


def _values(matcher) -> list[str]:
    """What a matcher asks for; of a regular expression each alternative."""
    is_regex = matcher.op in (parser.MatchOp.Re, parser.MatchOp.NotRe)
    return matcher.value.split("|") if is_regex else [matcher.value]


def complaints(query, page) -> list[str]:
    """What is wrong with it; `page` has the labels of each metric, and their values where there is a list of them."""
    try:
        parts = _walked(query)
    except ValueError as error:
        return [str(error)]
    found, labels_here = [], set()
    for selector in _selectors(parts):
        labels = _labels(selector.name, page)
        if isinstance(labels, str):
            found.append(labels)
            continue
        labels_here |= labels.keys()
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                found.append(f"{selector.name} has no label {matcher.name}")
                continue
            known = labels[matcher.name]
            if known is None:
                continue
            for value in _values(matcher):
                if not any(re.fullmatch(value, one) for one in known):
                    found.append(f"{matcher.name} is never {value}")
    for part in parts:
        if isinstance(part, parser.AggregateExpr) and part.modifier is not None:
            found += [
                f"nothing here has the label {label}" for label in part.modifier.labels if label not in labels_here
            ]
    return found
