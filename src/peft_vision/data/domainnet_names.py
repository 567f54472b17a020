"""This module lists the 40 classes of DomainNet chosen by SENTRY (Prabhu et al., 2021, arXiv:2012.11460) and reused by
LP-FT, in the order of SENTRY's labels."""

_SENTRY40 = """
airplane ambulance apple backpack banana bathtub bear bed bee bicycle bird book bridge bus cake calculator camera car
cat chair clock cow dog dolphin duck elephant fence fork horse house rabbit scissors strawberry table telephone truck
butterfly sheep drums donut
"""
SENTRY40 = tuple(_SENTRY40.split())
