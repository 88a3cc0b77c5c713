# pbt_flow with its tasks on PyTorch's CPU build; how it is used stands in docs/start.md.
FROM python:3.11-slim-bookworm

# Whoever runs it may have any number: what it writes goes into the folder that is mounted, and what
# libraries put under a home goes where anybody may write.
ENV HOME=/tmp \
    USER=pbt

WORKDIR /opt/pbt_flow
COPY requirements-run.txt ./
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -r requirements-run.txt
COPY pyproject.toml README.md LICENSE ./
COPY pbt_flow pbt_flow
COPY tasks tasks
RUN pip install --no-cache-dir --no-deps . \
    && useradd --no-create-home --shell /usr/sbin/nologin --uid 1000 pbt \
    && install --directory --owner pbt /work

USER 1000
WORKDIR /work
ENTRYPOINT ["pbt-flow"]
CMD ["--help"]
