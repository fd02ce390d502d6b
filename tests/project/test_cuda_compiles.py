"""The check of the CUDA sources that `make cuda` makes, on sources that pass and on sources that must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from freqrob.spectral import build
from tests.project.cuda_compiles import Result, compile_source

TOOLKIT = build.cuda_toolkit()

CLEAN = """
#include "ring_geometry.h"
__global__ void scale(float* x) { x[threadIdx.x] *= freqrob::multiplicity(threadIdx.x, 32); }
void launch(float* x) { scale<<<1, 32>>>(x); }
"""
UNUSED = "__global__ void scale(float* x) { int unused; x[threadIdx.x] *= 2; }\n"
SPILLS = """
__global__ void __launch_bounds__(1024, 2) crowd(float* x) {
  float kept[64];
  for (int i = 0; i < 64; ++i) kept[i] = x[threadIdx.x + 1024 * i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) x[threadIdx.x + 1024 * i] = kept[63 - i] * kept[i] + kept[7 * i % 64];
}
"""


def result(folder: Path, source: str) -> Result:
    if TOOLKIT is None:
        pytest.skip("no nvcc")
    file = folder / "source.cu"
    file.write_text(source)
    return compile_source(TOOLKIT, file, ("90",))


def test_a_clean_source(tmp_path):
    found = result(tmp_path, CLEAN)
    assert found.good and found.kernels == 1 and found.registers > 0, found


def test_a_warning_is_a_failure(tmp_path):
    found = result(tmp_path, UNUSED)
    assert not found.good and '"unused" was declared but never referenced' in str(found)


def test_a_spill_is_a_failure(tmp_path):
    found = result(tmp_path, SPILLS)
    assert not found.good and "crowd" in str(found) and "spills on sm_90" in str(found)
