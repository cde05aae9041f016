# The image that the flows run in: docker build -t finetune-flows .
# On linux/amd64 PyPI's torch brings CUDA with it, so the base needs none; the driver is the node's.
ARG BASE=python:3.11-slim
FROM ${BASE}

# tini hands signals on and reaps what a run leaves behind; as process 1 Python would ignore SIGTERM until Prefect handles it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*

# By number, so that Kubernetes can tell that it is not root. The pool's template gives volumes to this group.
RUN groupadd --gid 10001 flows && useradd --uid 10001 --gid flows --create-home flows

# The dependencies, several GB, in a layer that only a change of these two files makes anew.
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY blocks blocks
COPY tasks tasks
COPY flows flows
RUN pip install --no-cache-dir --no-deps .

# An empty folder: Prefect copies the one that it starts in to a temporary place for every run.
WORKDIR /home/flows/run
USER 10001:10001
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "flows", "--help"]
