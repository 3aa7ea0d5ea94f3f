"""Every key of `config.properties`, and what becomes of it.

`MOVES` are those with a setting of the same meaning: their functions are in `rules`. The others are not needed, or need
attention, and say why.
"""

from __future__ import annotations

from typing import Final

_JVM = "it tunes TorchServe's Java process, and there is none"
_GRPC = "there is no gRPC yet; clients use HTTP"
_HANDLERS = "Python handlers do not run yet; what they need is to be set up again when they do"
_LOGGED = "there is one figure for everything: GET /metrics, which is always there"
_NO_API = "models are loaded and unloaded by the routes below /admin, with the admin key"
_SEQUENCES = "sequences of requests are not supported"

MOVES: Final = (
    "inference_address", "management_address", "metrics_address", "private_key_file", "certificate_file",
    "job_queue_size", "default_response_timeout", "max_request_size", "number_of_gpu", "cors_allowed_origin",
    "disable_token_authorization", "load_models", "models", "model_snapshot", "model_store",
    "default_workers_per_model",
)  # fmt: skip

NOT_NEEDED: Final = {
    **dict.fromkeys(
        ("vmargs", "number_of_netty_threads", "netty_client_threads", "prefer_direct_buffer", "async_logging",
         "use_native_io", "io_ratio", "model_server_home", "unregister_model_timeout", "initial_worker_port",
         "initial_distribution_port", "debug"), _JVM,
    ),
    **dict.fromkeys(("enable_envvars_config",), "PENSTOCK_<NAME> in the environment always takes precedence"),
    **dict.fromkeys(("enable_metrics_api", "metrics_mode", "metric_time_interval", "disable_system_metrics"), _LOGGED),
    "default_startup_timeout": "a model has no time limit to load; readiness waits for it",
    "max_response_size": "replies have no limit",
    "limit_max_image_pixels": "images are always limited",
    "cors_allowed_methods": "origins that are allowed may use every method of the API",
    "cors_allowed_headers": "origins that are allowed may send every header of the API",
    "use_env_allowed_urls": "it says where allowed_urls comes from",
    "enable_model_api": _NO_API,
}  # fmt: skip

ATTENTION: Final = {
    **dict.fromkeys(
        ("grpc_inference_address", "grpc_management_address", "grpc_inference_port", "grpc_management_port",
         "enable_grpc_ssl", "grpc_inference_max_connection_age_ms", "grpc_inference_max_connection_age_grace_ms",
         "grpc_management_max_connection_age_ms", "grpc_management_max_connection_age_grace_ms"), _GRPC,
    ),
    **dict.fromkeys(
        ("install_py_dep_per_model", "service_envelope", "default_service_handler", "decode_input_request",
         "blacklist_env_vars", "ipex_enable", "ipex_gpu_enable", "cpu_launcher_enable", "cpu_launcher_args",
         "cpp_log_config", "plugins_path"), _HANDLERS,
    ),
    **dict.fromkeys(("ts_header_key_sequence_id", "ts_header_key_sequence_start", "ts_header_key_sequence_end"),
                    _SEQUENCES),
    **dict.fromkeys(
        ("keystore", "keystore_pass", "keystore_type"),
        "certificates are PEM files: `openssl pkcs12 -in KEYSTORE -out server.pem -nodes`, then tls_cert and tls_key",
    ),
    **dict.fromkeys(
        ("metrics_config", "model_metrics_auto_detect", "system_metrics_cmd"),
        "metrics of handlers are not there; GET /metrics has those of Penstock, docs/monitoring.md lists them",
    ),
    "allowed_urls": "expressions are not taken: remote_registries lists the beginnings of addresses, such as "
    "https://models.example.org/team/; without any, no model is fetched",
    "token_expiration_min": "keys expire when it was said at their creation: `penstock keys create NAME --expires 30d`",
    "workflow_store": "workflows do not run yet",
    "ts_open_inference_protocol": "the Open Inference Protocol is not there yet",
}  # fmt: skip

KEYS: Final = (*MOVES, *NOT_NEEDED, *ATTENTION)
SECRET: Final = ("keystore_pass",)
"""Keys whose values are never shown."""
