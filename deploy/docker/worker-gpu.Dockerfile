# A worker on an NVIDIA GPU; CUDA's libraries come with torch, the driver from the host's container runtime.
# Built from the root of the checkout:
#   docker build -f deploy/docker/worker-gpu.Dockerfile -t vllama-worker:0.0.1 .
FROM python:3.11-slim
# gcc: Triton compiles kernels where they run; libnuma: vLLM binds threads to cores.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /var/lib/vllama vllama
WORKDIR /src
COPY requirements/gpu.txt requirements/
RUN python -m venv /opt/vllama && /opt/vllama/bin/pip install --no-cache-dir --no-deps -r requirements/gpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY protos/vllama_protos protos/vllama_protos
COPY server/vllama_server server/vllama_server
COPY balancer/vllama_balancer balancer/vllama_balancer
COPY clients/vllama_clients clients/vllama_clients
COPY benchmarks/vllama_benchmarks benchmarks/vllama_benchmarks
RUN /opt/vllama/bin/pip install --no-cache-dir --no-deps .
ENV PATH=/opt/vllama/bin:$PATH PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 50061 9090
ENTRYPOINT ["vllama", "worker"]
CMD ["qwen2.5:7b", "--listen=0.0.0.0:50061", "--insecure", "--metrics=0.0.0.0:9090"]
