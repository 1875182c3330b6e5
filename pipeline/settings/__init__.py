"""Every setting of a run: typed, documented, range-checked; one section per stage, each in the module of its name.

A field marked `runtime` changes the speed or the place of a computation, never its result. Changing it reruns nothing.

run         all sections together         agreement  checks that they fit together
defaults    defaults that follow from other settings
annotators  the sections of `annotate`, one for each type of annotator
section     a section of settings         values     what several sections share
licences    licence notes on published weights
"""

from pipeline.settings.annotate import AnnotateSettings, AnnotatorSettings, ViewsSettings, of_member
from pipeline.settings.annotators import (
    MapsSettings,
    OnnxSettings,
    PythonSettings,
    SeemSettings,
    StudentSettings,
    TransformersSettings,
)
from pipeline.settings.calibrate import CalibrateSettings
from pipeline.settings.compute import ComputeSettings
from pipeline.settings.data import (
    MAX_MASK_VALUE,
    MAX_PIXELS,
    DataSettings,
    SceneSettings,
    SplitSettings,
    TileSettings,
    is_group_list,
)
from pipeline.settings.defaults import STAGES
from pipeline.settings.evaluate import EvaluateSettings
from pipeline.settings.licences import licence_note, sam_licence_note
from pipeline.settings.pseudolabel import RULE_OF_AUTO, GuaranteeSettings, PseudolabelSettings
from pipeline.settings.run import Origin, Settings
from pipeline.settings.section import Section, is_runtime
from pipeline.settings.stage1 import Stage1Settings
from pipeline.settings.stage2 import Stage2Settings
from pipeline.settings.train import EFFICIENTNETS, STUDENTS, TrainSettings
from pipeline.settings.values import WORDS_OF_PATTERNS, did_you_mean, visible_text

__all__ = [
    "EFFICIENTNETS",
    "MAX_MASK_VALUE",
    "MAX_PIXELS",
    "RULE_OF_AUTO",
    "STAGES",
    "STUDENTS",
    "WORDS_OF_PATTERNS",
    "AnnotateSettings",
    "AnnotatorSettings",
    "CalibrateSettings",
    "ComputeSettings",
    "DataSettings",
    "EvaluateSettings",
    "GuaranteeSettings",
    "MapsSettings",
    "OnnxSettings",
    "Origin",
    "PseudolabelSettings",
    "PythonSettings",
    "SceneSettings",
    "Section",
    "SeemSettings",
    "Settings",
    "SplitSettings",
    "Stage1Settings",
    "Stage2Settings",
    "StudentSettings",
    "TileSettings",
    "TrainSettings",
    "TransformersSettings",
    "ViewsSettings",
    "did_you_mean",
    "is_group_list",
    "is_runtime",
    "licence_note",
    "of_member",
    "sam_licence_note",
    "visible_text",
]
