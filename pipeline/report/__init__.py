"""The report: one self-contained HTML page about a work folder. Modules of `pipeline` import `page` only.

`page` writes it; every other module makes one part of it from the files of the stages, and is imported by `page` alone.
"""
