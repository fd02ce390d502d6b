"""Diagnostics: frequency measurements of a model on images, one module each."""

from freqrob.diagnostics.band_accuracy import BandAccuracy, band_accuracy
from freqrob.diagnostics.corruption_spectrum import CorruptionSpectrum, corruption_spectrum
from freqrob.diagnostics.fourier_heatmap import FourierHeatmap, fourier_heatmap
from freqrob.diagnostics.hybrid import HybridReliance, hybrid_reliance
from freqrob.diagnostics.jacobian import JacobianSpectrum, jacobian_spectrum
from freqrob.diagnostics.loss_landscape import LossLandscape, loss_landscape
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.minimal_perturbation import MinimalPerturbationSpectrum, minimal_perturbation
from freqrob.diagnostics.registry import Column, Diagnostic, get_diagnostic, list_diagnostics, register_diagnostic
from freqrob.diagnostics.run import Diagnosis, diagnose, expected_seconds
from freqrob.diagnostics.sensitivity import Sensitivity, sensitivity
from freqrob.diagnostics.spectrum import Spectrum, spectrum

__all__ = [
    "BandAccuracy",
    "Column",
    "CorruptionSpectrum",
    "Diagnosis",
    "Diagnostic",
    "FourierHeatmap",
    "HybridReliance",
    "JacobianSpectrum",
    "LossLandscape",
    "Measurement",
    "MinimalPerturbationSpectrum",
    "Quantity",
    "Sensitivity",
    "Spectrum",
    "band_accuracy",
    "corruption_spectrum",
    "diagnose",
    "expected_seconds",
    "fourier_heatmap",
    "get_diagnostic",
    "hybrid_reliance",
    "jacobian_spectrum",
    "list_diagnostics",
    "loss_landscape",
    "minimal_perturbation",
    "register_diagnostic",
    "sensitivity",
    "spectrum",
]
