"""The doctor: reads the history of a run, and names what is wrong with its training, with evidence and remedies."""

from tercet.doctor.chart import Case
from tercet.doctor.diagnosis import Diagnosis, Finding, diagnose
from tercet.doctor.illnesses import ILLNESSES

__all__ = ["diagnose", "Case", "Diagnosis", "Finding", "ILLNESSES"]
