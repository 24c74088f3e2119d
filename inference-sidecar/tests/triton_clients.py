"""Asks a server with the clients of Triton, unmodified, in every form they know; prints what each form got."""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

MODES = ["http_json", "http_binary", "http_gzip", "http_deflate", "grpc_raw", "grpc_typed", "grpc_gzip"]


def main() -> None:
    """Reads what to ask from standard input: a word, the addresses, and what the word needs."""
    asked = json.load(sys.stdin)
    words = {"infer": infer, "stream": stream, "told": told, "control": control, "raw": raw, "secured": secured}
    json.dump(words[asked["word"]](asked), sys.stdout)


def cells(array: np.ndarray) -> list[Any]:
    flat = array.reshape(-1).tolist()
    return [cell.decode() if isinstance(cell, bytes) else cell for cell in flat]


def tensors(asked: dict[str, Any]) -> list[tuple[str, str, np.ndarray]]:
    features = np.array(asked["features"], dtype=np.float32)
    records = np.array([record.encode() for record in asked["records"]], dtype=np.object_)
    return [("features", "FP32", features), ("record", "BYTES", records)]


def infer(asked: dict[str, Any]) -> dict[str, Any]:
    """Both inputs in every mode: `{mode: {input: {output: [shape, cells]}}}`."""
    http = triton_http.InferenceServerClient(asked["http"])
    rpc = triton_grpc.InferenceServerClient(asked["grpc"])
    answers: dict[str, Any] = {}
    for mode in MODES:
        answers[mode] = {}
        for name, datatype, values in tensors(asked):
            ask = ask_http if mode.startswith("http") else ask_grpc
            client = http if mode.startswith("http") else rpc
            result, names = ask(client, asked, mode, name, datatype, values)
            answers[mode][name] = {output: [list(result.as_numpy(output).shape), cells(result.as_numpy(output))] for output in names}
    return answers


def ask_http(client: Any, asked: dict[str, Any], mode: str, name: str, datatype: str, values: np.ndarray) -> Any:
    tensor = triton_http.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=mode != "http_json")
    outputs = None
    if mode == "http_json":
        outputs = [triton_http.InferRequestedOutput(output, binary_data=False) for output in asked["outputs"]]
    packed = {"http_gzip": "gzip", "http_deflate": "deflate"}.get(mode)
    result = client.infer(
        asked["model"],
        [tensor],
        model_version=asked.get("version", ""),
        outputs=outputs,
        request_id="a-1",
        parameters={"explain": asked["explain"]},
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    told = result.get_response()
    assert told["id"] == "a-1" and told["model_name"] == asked["model"], told
    return result, [output["name"] for output in told["outputs"]]


def ask_grpc(client: Any, asked: dict[str, Any], mode: str, name: str, datatype: str, values: np.ndarray) -> Any:
    if mode == "grpc_typed":
        return ask_typed(asked, name, datatype, values)
    tensor = triton_grpc.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    result = client.infer(
        asked["model"],
        [tensor],
        model_version=asked.get("version", ""),
        request_id="a-1",
        parameters={"explain": asked["explain"]},
        compression_algorithm="gzip" if mode == "grpc_gzip" else None,
    )
    told = result.get_response()
    assert told.id == "a-1" and told.model_name == asked["model"], told
    assert len(told.raw_output_contents) == len(told.outputs)
    return result, [output.name for output in told.outputs]


def ask_typed(asked: dict[str, Any], name: str, datatype: str, values: np.ndarray) -> Any:
    """Typed contents, which the client never writes."""
    request = service_pb2.ModelInferRequest(model_name=asked["model"], id="a-1")
    request.parameters["explain"].bool_param = asked["explain"]
    tensor = request.inputs.add(name=name, datatype=datatype, shape=list(values.shape))
    if datatype == "FP32":
        tensor.contents.fp32_contents.extend(values.reshape(-1).tolist())
    else:
        tensor.contents.bytes_contents.extend(values.reshape(-1).tolist())
    with grpc.insecure_channel(asked["grpc"]) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert not response.raw_output_contents
    return Typed(response), [output.name for output in response.outputs]


class Typed:
    """Reads typed contents, of which the client reads bytes alone."""

    def __init__(self, response: Any) -> None:
        self.outputs = {output.name: output for output in response.outputs}

    def as_numpy(self, name: str) -> np.ndarray:
        output = self.outputs[name]
        contents = output.contents.fp32_contents if output.datatype == "FP32" else output.contents.bytes_contents
        return np.array(contents, dtype=np.float32 if output.datatype == "FP32" else np.object_).reshape(list(output.shape))


def stream(asked: dict[str, Any]) -> list[Any]:
    """Requests of one stream, by the model that each names: `[id, cells]` or `["error", message]`, in order."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(asked["grpc"]) as client:
        packed = "gzip" if asked["gzip"] else None
        client.start_stream(callback=lambda result, error: answers.put((result, error)), compression_algorithm=packed)
        for number, (model, record) in enumerate(zip(asked["models"], asked["records"])):
            tensor = triton_grpc.InferInput("record", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([record.encode()], dtype=np.object_))
            client.async_stream_infer(model, [tensor], request_id=f"r{number}", enable_empty_final_response=True)
        got = [answers.get(timeout=60) for _ in asked["models"]]
        client.stop_stream()
    assert answers.empty()
    for result, _ in got:
        assert result is None or result.get_response().parameters["triton_final_response"].bool_param
    return [["error", error.message()] if error else [result.get_response().id, cells(result.as_numpy("score"))] for result, error in got]


def told(asked: dict[str, Any]) -> dict[str, Any]:
    """What the server tells of itself and a model, by both protocols."""
    http = triton_http.InferenceServerClient(asked["http"])
    rpc = triton_grpc.InferenceServerClient(asked["grpc"])
    model, version = asked["model"], asked["version"]
    for client in (http, rpc):
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready(model) and client.is_model_ready(model, version)
        assert not client.is_model_ready("nobody") and not client.is_model_ready(model, "0")
    return {
        "server": [http.get_server_metadata(), rpc.get_server_metadata(as_json=True)],
        "model": [http.get_model_metadata(model), rpc.get_model_metadata(model, version, as_json=True)],
        "statistics": [http.get_inference_statistics(model), rpc.get_inference_statistics(model, as_json=True)],
        "all": [len(http.get_inference_statistics()["model_stats"]), len(rpc.get_inference_statistics().model_stats)],
    }


def control(asked: dict[str, Any]) -> dict[str, Any]:
    """Unloads a model by one protocol and loads it by the other, and the other way round."""
    http = triton_http.InferenceServerClient(asked["http"])
    rpc = triton_grpc.InferenceServerClient(asked["grpc"])
    model = asked["model"]
    states = []
    for first, second in ((http, rpc), (rpc, http)):
        for client, change in ((first, first.unload_model), (second, second.load_model)):
            change(model)
            listed = [
                {line["name"]: line["state"] for line in http.get_model_repository_index()}[model],
                {line.name: line.state for line in rpc.get_model_repository_index().models}[model],
            ]
            states.append([first.is_model_ready(model), second.is_model_ready(model), *listed])
    faults = []
    for client in (http, rpc):
        for change in (client.load_model, client.unload_model):
            try:
                change("nobody")
            except InferenceServerException as fault:
                faults.append([str(fault.status()), fault.message()])
        try:
            client.load_model(model, config="{}")
        except InferenceServerException as fault:
            faults.append([str(fault.status()), fault.message()])
    return {"states": states, "faults": faults}


def raw(asked: dict[str, Any]) -> list[Any]:
    """Calls with any bytes as their message: `[code, message]` of each."""
    answers = []
    with grpc.insecure_channel(asked["grpc"]) as channel:
        for call in asked["calls"]:
            method = channel.unary_unary(f"/{call.get('service', 'inference.GRPCInferenceService')}/{call['method']}")
            message = bytes.fromhex(call["hex"]) * call.get("times", 1)
            metadata = [tuple(pair) for pair in call.get("metadata", [])]
            try:
                packing = grpc.Compression.Gzip if call.get("gzip") else None
                method(message, metadata=metadata, timeout=call.get("timeout", 60), compression=packing)
                answers.append(["OK", ""])
            except grpc.RpcError as fault:
                answers.append([fault.code().name, fault.details()])
    return answers


def secured(asked: dict[str, Any]) -> dict[str, str]:
    """One request by each protocol over TLS, with or without token and certificate; what became of it."""
    outcomes = {}
    name, datatype, values = tensors(asked)[1]
    headers = {"authorization": f"Bearer {asked['token']}"} if asked.get("token") else None
    files = {key: asked[key] for key in ("ca_certs", "certfile", "keyfile") if asked.get(key)}
    tensor = triton_http.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    try:
        client = triton_http.InferenceServerClient(asked["http"], ssl=True, ssl_options=files)
        client.infer(asked["model"], [tensor], headers=headers and dict(headers))  # It adds to them.
        outcomes["http"] = "ok"
    except InferenceServerException as fault:
        outcomes["http"] = str(fault.status())
    except Exception as fault:  # What TLS says depends on the library.
        outcomes["http"] = type(fault).__name__
    tensor = triton_grpc.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    client = triton_grpc.InferenceServerClient(
        asked["grpc"],
        ssl=True,
        root_certificates=files.get("ca_certs"),
        private_key=files.get("keyfile"),
        certificate_chain=files.get("certfile"),
    )
    try:
        client.infer(asked["model"], [tensor], headers=headers, client_timeout=20)
        outcomes["grpc"] = "ok"
    except InferenceServerException as fault:
        outcomes["grpc"] = str(fault.status())
    return outcomes


if __name__ == "__main__":
    main()
