"""The verdict as JUnit XML, for continuous integration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from runtime.parity.verdict import FAIL, SKIP, WARN, not_measured


def to_junit(report: Mapping[str, Any]) -> str:
    """Return one test case a rule; a warning is a pass with an output, as JUnit has no warnings.

    Args:
        report: the content of report.json.

    Returns:
        An XML document.
    """
    rules = report["verdict"]["rules"]
    names = [report["artifacts"][role]["name"] for role in ("reference", "candidate")]
    counts = {
        "tests": str(len(rules)),
        "failures": str(sum(rule["outcome"] == FAIL for rule in rules)),
        "skipped": str(sum(rule["outcome"] == SKIP for rule in rules)),
        "errors": "0",
    }
    name = _legal(f"parity of {names[1]} with {names[0]}")
    suites = ElementTree.Element("testsuites", {"name": name, **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **counts, "timestamp": report["created_utc"]})
    properties = ElementTree.SubElement(suite, "properties")
    for path in report["missing"]:
        value = _legal(not_measured(report, path))
        ElementTree.SubElement(properties, "property", {"name": path, "value": value})
    for rule in rules:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "parity", "name": rule["rule"], "time": "0"})
        text = _legal(rule["text"])
        if rule["outcome"] == FAIL:
            ElementTree.SubElement(case, "failure", {"message": text, "type": "parity"}).text = text
        elif rule["outcome"] == SKIP:
            ElementTree.SubElement(case, "skipped", {"message": text})
        else:
            word = "warning: " if rule["outcome"] == WARN else ""
            ElementTree.SubElement(case, "system-out").text = word + text
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _legal(text: str) -> str:
    """Replace characters that XML cannot hold, such as control characters in a file name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
