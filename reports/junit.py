"""A drift check as JUnit's XML: a test suite for each host, a test case for each finding."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from reports.fleet import Fleet, HostReport
from reports.masking import masked
from reports.repair import repair


def junit(fleet: Fleet) -> str:
    """Give the XML; a host as declared is one case that passed, drift fails, the unknown errs."""
    suites = ET.Element("testsuites", name=f"drift of {fleet.inventory}")
    for host in fleet.hosts:
        suites.append(_suite(host, fleet))
    if fleet.trouble:
        suite = ET.SubElement(suites, "testsuite", name=fleet.inventory, tests="1", errors="1")
        _error(suite, fleet.inventory, fleet.trouble)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(host: HostReport, fleet: Fleet) -> ET.Element:
    one = host.judgement
    cases = len(one.findings) + len(one.troubles)
    suite = ET.Element(
        "testsuite",
        name=host.name,
        tests=str(max(1, cases)),
        failures=str(len(one.findings)),
        errors=str(len(one.troubles)),
        time=f"{host.seconds:.3f}",
    )
    for trouble in one.troubles:
        _error(suite, host.name, trouble)
    for finding in one.findings:
        name = " ".join(filter(None, [finding.address, finding.attribute]))
        case = ET.SubElement(suite, "testcase", classname=host.name, name=_legal(name))
        failure = ET.SubElement(case, "failure", type=finding.cause, message=_legal(str(finding)))
        failure.text = _legal(repair(finding, inventory=fleet.inventory, host=host.name))
    if not cases:
        name = f"{one.checked} resources are as declared"
        ET.SubElement(suite, "testcase", classname=host.name, name=name)
    return suite


def _error(suite: ET.Element, name: str, why: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=name, name="could be looked at")
    ET.SubElement(case, "error", type="cannot tell", message=_legal(why))


def _legal(text: str) -> str:
    """Leave out secrets, and what XML 1.0 has no way to write."""
    return "".join(one for one in masked(text) if one in "\t\n" or one >= " ")
