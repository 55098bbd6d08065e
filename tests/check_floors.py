#!/usr/bin/env python3
"""Fails when a file includes a floor above its own, or a library that belongs to another floor."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLOORS = ["kernels", "parallel", "engine", "rpc", "launcher"]
# library header -> the only floors that may name it
LIBRARIES = {
    r"mpi\.h": ["parallel"],
    r"nccl\.h": ["parallel"],
    r"cuda.*|cublas.*": ["kernels", "parallel"],
    r"dnnl.*|oneapi/.*": ["kernels"],
    r"grpc.*|openengine.*|polystrate_.*|vllm_.*": ["rpc", "launcher"],
    r"openssl/.*": ["rpc"],
    r"prometheus/.*|httplib\.h": ["rpc"],
    r"yaml-cpp/.*": ["launcher"],
    r"google/protobuf/.*": ["engine", "rpc", "launcher"],
    r"pcre2\.h|unicode/.*": ["engine"],
}


def faults(path: pathlib.Path, floor: str) -> list[str]:
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#include\s+["<]([^">]+)[">]', line)
        if not match:
            continue
        header = match.group(1)
        top = header.split("/")[0]
        if top in FLOORS and FLOORS.index(top) > FLOORS.index(floor):
            found.append(f"{path.relative_to(ROOT)}:{number}: {floor}/ may not include {header}")
        for pattern, allowed in LIBRARIES.items():
            if re.fullmatch(pattern, header) and floor not in allowed:
                found.append(f"{path.relative_to(ROOT)}:{number}: only {'/, '.join(allowed)}/ may include {header}")
    return found


def main() -> int:
    sources = [(p, f) for f in FLOORS for p in sorted((ROOT / f).rglob("*")) if p.suffix in {".h", ".cc", ".cu", ".cuh"}]
    found = [fault for path, floor in sources for fault in faults(path, floor)]
    print("\n".join(found) or f"{len(sources)} files keep to their floors")
    return 1 if found or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
