#!/usr/bin/env python3
"""What is linked into the binary besides our own code.

    third-party.py copyright    writes dist/package/copyright: licences and notices of every linked crate
    third-party.py license      prints the SPDX expression of the whole binary
    third-party.py sbom VERSION writes a CycloneDX 1.5 document to standard output

Crates come from Cargo.lock, for both machines that releases are made for; build dependencies, macros and tests are not
linked. Licence texts come from the crates themselves, as cargo has unpacked them.
"""

import glob
import hashlib
import json
import os
import subprocess
import sys
import tomllib
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MACHINES = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
APACHE = "Apache License"


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def tree(machine):
    """Name and version of everything that is linked on a machine. Metadata would list optional crates that are not."""
    edges = ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
    lines = cargo("tree", *edges, "--package", "dcgm-exporter", "--target", machine).splitlines()
    return {tuple(line.split(" ")[:2]) for line in lines}


def linked():
    """Every linked package by id, with the ids of the packages that it uses."""
    packages, uses = {}, {}
    for machine in MACHINES:
        data = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", machine))
        names = tree(machine)
        here = {package["id"]: package for package in data["packages"] if (package["name"], f"v{package['version']}") in names}
        packages.update(here)
        for node in data["resolve"]["nodes"]:
            if node["id"] in here:
                normal = (dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"]))
                uses.setdefault(node["id"], set()).update(dep for dep in normal if dep in here)
    return packages, uses


def crates(packages):
    """All but our own, by name."""
    others = [package for package in packages.values() if package["source"]]
    return sorted(others, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """Licence texts and notices of a crate."""
    directory = os.path.dirname(package["manifest_path"])
    found = []
    for pattern in ("LICEN[CS]E*", "COPYING*", "COPYRIGHT*", "NOTICE*", "UNLICENSE*", "license*", "LICENSES/*", "licenses/*"):
        for path in glob.glob(os.path.join(directory, pattern)):
            if os.path.isfile(path) and not path.endswith(".html"):
                with open(path, encoding="utf-8", errors="replace") as file:
                    found.append("\n".join(line.rstrip() for line in file.read().strip().splitlines()))
    return sorted(set(found))


def paragraph(text):
    """As a field of Debian's format: indented, an empty line as a full stop."""
    return "".join(f" {line}\n" if line else " .\n" for line in text.splitlines())


def copyright_file():
    packages, _ = linked()
    by_text = {}
    out = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: dcgm-exporter\n"
        "Comment: Written by dist/package/third-party.py; tests/it/install.rs compares its list with Cargo.lock.\n"
        " The binary has the crates below in it, and the standard library of Rust (Copyright the Rust project's\n"
        " contributors, MIT or Apache-2.0). Where a crate offers several licences, Apache-2.0 is used if it is one of\n"
        " them. The texts that the crates ship follow in full.\n",
        "Files: *\nCopyright: the dcgm-exporter developers\nLicense: Apache-2.0\n",
    ]
    for package in crates(packages):
        name = f"{package['name']} {package['version']}"
        expression = package["license"].replace("/", " OR ")
        authors = ", ".join(author.split(" <")[0] for author in package["authors"]) or f"the authors of {package['name']}"
        out.append(f"Files: crate {name}\nCopyright: {authors}\nLicense: {expression}\n")
        for text in texts(package):
            # One Apache-2.0 is as good as another, and LICENSE has it.
            if text.lstrip().startswith(APACHE) and "Version 2.0" in text:
                continue
            by_text.setdefault(text, []).append(name)
    out.append("License: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0; it is the file\n LICENSE beside this one, too.\n")
    for text, names in sorted(by_text.items(), key=lambda item: item[1]):
        out.append(f"Comment: text that ships with {', '.join(names)}\n .\n{paragraph(text)}")
    with open(os.path.join(ROOT, "dist/package/copyright"), "w", encoding="utf-8") as file:
        file.write("\n".join(out))


def expression():
    packages, _ = linked()
    found = {package["license"].replace("/", " OR ") for package in crates(packages)} - {"Apache-2.0"}
    parts = [f"({one})" if " OR " in one else one for one in sorted(found)]
    return " AND ".join(["Apache-2.0", *parts])


def sbom(version):
    packages, uses = linked()
    with open(os.path.join(ROOT, "Cargo.lock"), "rb") as file:
        sums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in tomllib.load(file)["package"]}

    def reference(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package):
        found = {
            "type": "library",
            "bom-ref": reference(package),
            "name": package["name"],
            "version": package["version"],
            "purl": reference(package),
            "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        }
        checksum = sums.get((package["name"], package["version"]))
        if checksum:
            found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return found

    own = next(package for package in packages.values() if not package["source"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": reference(own),
                "name": own["name"],
                "version": version,
                "licenses": [{"license": {"id": own["license"]}}],
            }
        },
        "components": [component(package) for package in crates(packages)],
        "dependencies": [
            {"ref": reference(packages[name]), "dependsOn": sorted(reference(packages[dep]) for dep in uses[name])}
            for name in sorted(packages, key=lambda name: reference(packages[name]))
        ],
    }
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch:
        from datetime import datetime, timezone

        document["metadata"]["timestamp"] = datetime.fromtimestamp(int(epoch), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    # The same contents have the same number.
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}"
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["copyright"]:
            copyright_file()
        case ["license"]:
            print(expression())
        case ["sbom", version]:
            sbom(version)
        case _:
            sys.exit(__doc__)
