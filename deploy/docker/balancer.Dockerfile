# The balancer and the command: no vLLM, no torch. Built from the root of the checkout:
#   docker build -f deploy/docker/balancer.Dockerfile -t vllama-balancer:0.0.1 .
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements/cpu.txt requirements/
COPY protos/vllama_protos protos/vllama_protos
COPY server/vllama_server server/vllama_server
COPY balancer/vllama_balancer balancer/vllama_balancer
COPY clients/vllama_clients clients/vllama_clients
COPY benchmarks/vllama_benchmarks benchmarks/vllama_benchmarks
# The pinned list is a constraint here, not a list to install: only what the base package needs comes in.
RUN python -m venv /opt/vllama && /opt/vllama/bin/pip install --no-cache-dir -c requirements/cpu.txt .

FROM python:3.11-slim
COPY --from=build /opt/vllama /opt/vllama
RUN useradd --uid 10001 --create-home --home-dir /var/lib/vllama vllama
ENV PATH=/opt/vllama/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 11434 50051
ENTRYPOINT ["vllama", "serve"]
CMD ["--host=0.0.0.0", "--worker=dns:///vllama-worker:50061"]
