"""`dpbench ci`: a job for a CI service, as text to commit."""

from __future__ import annotations

from typing import Annotated

import typer

INSTALL = "pip install git+https://github.com/OWNER/REPOSITORY  # where you have dpbench from"

GITHUB = """\
# .github/workflows/dpbench.yml
name: dpbench
on: [push, pull_request]
permissions:
  contents: read
jobs:
  leakage:
    runs-on: ubuntu-latest
    timeout-minutes: 60
    env:
      DPBENCH_CACHE: .dpbench-cache
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
          cache: pip
      - uses: actions/cache@v4
        with:
          path: .dpbench-cache
          key: dpbench-${{{{ runner.os }}}}-${{{{ hashFiles('{suite_file}') }}}}
          restore-keys: dpbench-${{{{ runner.os }}}}-
      - run: {install}
      - run: dpbench run {suite} --output run
      - run: dpbench gate run --max-ssim 0.4 --max-reid 0.1
      - if: hashFiles('accepted.csv') != ''
        run: dpbench check run --baseline accepted.csv --junit gate.xml
      - if: always()
        uses: actions/upload-artifact@v4
        with:
          name: dpbench
          path: |
            run/report.html
            run/board.csv
            gate.xml
          if-no-files-found: warn
"""

GITLAB = """\
# .gitlab-ci.yml
dpbench:
  image: python:3.11
  timeout: 1h
  variables:
    DPBENCH_CACHE: $CI_PROJECT_DIR/.dpbench-cache
    PIP_CACHE_DIR: $CI_PROJECT_DIR/.pip-cache
  cache:
    key: dpbench
    paths: [.dpbench-cache, .pip-cache]
  script:
    - {install}
    - dpbench run {suite} --output run
    - dpbench gate run --max-ssim 0.4 --max-reid 0.1
    - if [ -f accepted.csv ]; then dpbench check run --baseline accepted.csv --junit gate.xml --gitlab quality.json; fi
  artifacts:
    when: always
    expose_as: dpbench report
    paths: [run/report.html, run/board.csv]
    reports:
      junit: gate.xml
      codequality: quality.json
"""

SERVICES = {"github": GITHUB, "gitlab": GITLAB}


verbs = typer.Typer()


@verbs.command(epilog="Examples:\n\n  dpbench ci github > .github/workflows/dpbench.yml\n\n  dpbench ci gitlab my.toml")
def ci(
    service: Annotated[str, typer.Argument(help="github or gitlab.")],
    suite: Annotated[str, typer.Argument(help="What to run: a built-in suite or a TOML file.")] = "quick",
) -> None:
    """A job that measures, gates and keeps the report: cache, install line, artifact, JUnit. Change its limits."""
    import shlex

    from dpbench.errors import unknown

    if service not in SERVICES:
        raise unknown("service", service, SERVICES)
    print(job(service, shlex.quote(suite)), end="")


def job(service: str, suite: str) -> str:
    """The job as YAML; the suite as a word of a shell."""
    file = suite if suite.endswith(".toml") else "**/*.toml"
    return SERVICES[service].format(suite=suite, suite_file=file, install=INSTALL)
