"""freqrob in Foolbox: attacks, minimal perturbations and the spectra of perturbations.

Every attack is used as Foolbox's own are: ``attack(model, inputs, criterion, epsilons=…)`` → raw, clipped, success.
"""
