"""The names of the layouts of preference data sets. How each is read is the business of `preference_rows`."""

from enum import StrEnum


class PreferenceFormat(StrEnum):
    """The layout of a preference data set's rows."""

    auto = "auto"
    hh_rlhf = "hh_rlhf"
    trl_explicit = "trl_explicit"
    trl_implicit = "trl_implicit"
    ultrafeedback = "ultrafeedback"
    rewardbench = "rewardbench"
    kto = "kto"
    nemo = "nemo"
    judgebench = "judgebench"
