// Generates src/generated from the protos with ts-proto; part of every build, so that it is never stale.
//
// The compiler is, in this order: $PROTOC, the one inside grpcio-tools in the checkout's .venv, `protoc`
// of the PATH. All of them make the same code: ts-proto, pinned in package.json, writes it.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const wire = path.resolve(here, "../../protos");
const details = path.join(here, "protos");
const target = path.join(here, "src/generated");
const python = path.resolve(here, "../../.venv/bin/python");

const OPTIONS = [
  "outputServices=grpc-js",
  "esModuleInterop=true",
  "importSuffix=.js",
  "env=node",
  "oneof=unions-value", // an event is one of three kinds, checked by the compiler
  "useOptionals=messages",
  "exportCommonSymbols=false",
  "outputJsonMethods=false",
  "addGrpcMetadata=false",
  "stringEnums=false",
];

function compiler() {
  if (process.env.PROTOC) return [process.env.PROTOC];
  if (existsSync(python)) return [python, "-m", "grpc_tools.protoc"];
  return ["protoc"];
}

function protosBelow(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith(".proto"))
    .sort();
}

const [command, ...first] = compiler();
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
const done = spawnSync(
  command,
  [
    ...first,
    `--plugin=protoc-gen-ts_proto=${path.join(here, "node_modules/.bin/protoc-gen-ts_proto")}`,
    `--ts_proto_out=${target}`,
    ...OPTIONS.map((option) => `--ts_proto_opt=${option}`),
    `-I${wire}`,
    `-I${details}`,
    ...protosBelow(wire),
    ...protosBelow(details),
  ],
  { stdio: "inherit" },
);
if (done.error) {
  console.error(`${command} cannot be run (${done.error.message}): install protoc, or name one with PROTOC=/path/to/protoc`);
}
process.exit(done.status ?? 1);
