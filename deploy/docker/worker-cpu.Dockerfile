# A worker on the processor, with the embedded model in its store. Built from the root of the checkout:
#   docker build -f deploy/docker/worker-cpu.Dockerfile -t vllama-worker:0.0.1-cpu .
FROM python:3.11-slim
# gcc: torch compiles kernels where they run; libnuma: vLLM binds threads to cores.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /var/lib/vllama vllama && install -d -o vllama /opt/vllama
USER 10001:10001
WORKDIR /opt/vllama
COPY --chown=10001:10001 pyproject.toml README.md LICENSE ./
COPY --chown=10001:10001 requirements requirements
COPY --chown=10001:10001 protos/vllama_protos protos/vllama_protos
COPY --chown=10001:10001 server/vllama_server server/vllama_server
COPY --chown=10001:10001 balancer/vllama_balancer balancer/vllama_balancer
COPY --chown=10001:10001 clients/vllama_clients clients/vllama_clients
COPY --chown=10001:10001 benchmarks/vllama_benchmarks benchmarks/vllama_benchmarks
RUN requirements/setup.sh
ENV PATH=/opt/vllama/.venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 50061 9090
ENTRYPOINT ["vllama", "worker"]
CMD ["smollm2:135m", "--listen=0.0.0.0:50061", "--insecure", "--metrics=0.0.0.0:9090"]
