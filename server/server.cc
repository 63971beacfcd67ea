#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/status.h"
#include "server/log.h"
#include "server/status_page.h"
#include "server/tls.h"
#include "server/version.h"

namespace tessera {
namespace {

constexpr int kMaxTenants = 1024;
constexpr int kMaxDraftTokens = 8;  // a step, of one sequence
constexpr char kGenerationService[] = "tessera.v1.GenerationService";
constexpr char kModelService[] = "tessera.v1.ModelService";
constexpr char kControlService[] = "tessera.v1.ControlService";
// For clients that watch our health to turn to another daemon. What comes once gRPC shuts down it
// ends by itself, with CANCELLED and no word of why.
constexpr std::chrono::milliseconds kNoticeTime{500};
// After the engine has ended every request: for clients to read what is on its way to them.
constexpr std::chrono::seconds kFlushTime{5};

MetricsOptions ToMetricsOptions(const ServerOptions& options, const ServedModel& model,
                                const ExecutorLimits& limits) {
  return {.model_name = model.name,
          .fingerprint = model.fingerprint,
          .device = model.device,
          .page_tokens = limits.page_tokens,
          .num_pages = limits.num_pages,
          .max_context = limits.max_context,
          .prefix_cache = options.prefix_cache};
}

TimeNs Nanoseconds(double seconds) { return static_cast<TimeNs>(seconds * 1e9); }

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Parts parts) {
  std::unique_ptr<Server> server(new Server(options, std::move(parts)));
  ASSIGN_OR_RETURN(server->authenticator_,
                   Authenticator::Create({.api_keys_path = options.api_keys_path,
                                          .tenant_metadata_key = options.tenant_metadata_key}));
  RETURN_IF_ERROR(server->StartEngine());
  RETURN_IF_ERROR(server->StartListeners());
  return server;
}

Server::Server(const ServerOptions& options, Parts parts)
    : options_(options),
      parts_(std::move(parts)),
      drain_timeout_seconds_(options.drain_timeout_seconds),
      metrics_(ToMetricsOptions(options, parts_.model, parts_.executor->limits())),
      tenants_(kMaxTenants),
      parser_(parts_.tokenizer, parts_.executor->limits().max_context, options.max_message_bytes,
              parts_.model.name),
      generation_service_(&serving_),
      model_service_(&serving_),
      control_service_(&serving_, [this](std::optional<double> t) { RequestDrain(t); }),
      health_service_({kGenerationService, kModelService, kControlService}) {}

Server::~Server() {
  if (engine_ == nullptr) return;
  drain_timeout_seconds_ = 0.0;
  Drain();
}

absl::Status Server::StartEngine() {
  EngineOptions engine_options;
  engine_options.scheduler.max_waiting_requests = options_.max_waiting;
  engine_options.scheduler.max_waiting_prompt_tokens = options_.max_waiting_prompt_tokens;
  engine_options.scheduler.prefix_cache = options_.prefix_cache;
  engine_options.scheduler.target_step_time = static_cast<TimeNs>(options_.target_itl_ms * 1e6);
  if (options_.speculate == "ngram") engine_options.scheduler.max_draft_tokens = kMaxDraftTokens;
  engine_options.observer = &metrics_;
  ASSIGN_OR_RETURN(engine_, Engine::Start(engine_options, parts_.executor));
  if (!options_.otlp_endpoint.empty()) {
    tracer_ = std::make_unique<Tracer>(Tracer::Options{.endpoint = options_.otlp_endpoint,
                                                       .model = parts_.model.name,
                                                       .version = kTesseraVersion});
  }

  serving_.engine = engine_.get();
  serving_.tokenizer = parts_.tokenizer;
  serving_.parser = &parser_;
  serving_.metrics = &metrics_;
  serving_.calls = &calls_;
  serving_.tenants = &tenants_;
  serving_.quotas = &quotas_;
  serving_.authenticator = authenticator_.get();
  serving_.tracer = tracer_.get();
  if (options_.load_reports) serving_.load_reporter = &load_reporter_;
  serving_.model = parts_.model;
  serving_.max_message_bytes = options_.max_message_bytes;
  serving_.max_waiting = options_.max_waiting;
  serving_.max_open_generations = 2 * (options_.max_waiting + options_.max_running);
  serving_.max_waiting_prompt_tokens = options_.max_waiting_prompt_tokens;
  return absl::OkStatus();
}

absl::Status Server::StartListeners() {
  RETURN_IF_ERROR(StartPages());
  RETURN_IF_ERROR(StartServices());
  for (const char* service : {"", kGenerationService, kModelService, kControlService}) {
    health_service_.SetServing(service, true);
  }
  ready_ = true;
  return absl::OkStatus();
}

absl::Status Server::StartPages() {
  const auto metrics = [this] {
    return HttpReply{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                     .body = metrics_.Render()};
  };
  ASSIGN_OR_RETURN(http_,
                   HttpListener::Start(options_.metrics_listen,
                                       {{"/", [] { return StatusPage(); }},
                                        {"/status.json", [this] { return StatusJson(serving_); }},
                                        {"/metrics", metrics},
                                        {"/healthz", [] { return HttpReply{.body = "ok\n"}; }},
                                        {"/readyz", [this] { return Readiness(); }}}));
  return absl::OkStatus();
}

// Who has a key may generate; whoever may end others' requests or the daemon comes another way.
absl::Status Server::StartServices() {
  GrpcListenerOptions listener = {
      .credentials = nullptr,
      .max_message_bytes = options_.max_message_bytes,
      .max_connection_idle_seconds = options_.max_connection_idle_seconds,
      .max_connection_age_seconds = options_.max_connection_age_seconds,
      .reflection = options_.reflection.value_or(!authenticator_->has_keys())};
  ASSIGN_OR_RETURN(listener.credentials,
                   MakeServerCredentials({.certificate_path = options_.tls_certificate_path,
                                          .key_path = options_.tls_key_path,
                                          .client_ca_path = options_.tls_client_ca_path}));
  std::vector<grpc::Service*> services = {&generation_service_, &model_service_, &health_service_};
  const bool has_control_listener = !options_.control_listen.empty();
  if (!has_control_listener && !authenticator_->has_keys()) services.push_back(&control_service_);
  ASSIGN_OR_RETURN(
      grpc_, StartGrpcListener(options_.listen, options_.max_connections, listener, services));
  // Last: gRPC takes a socket's path away from another daemon that we were started beside by
  // mistake.
  if (has_control_listener) {
    ASSIGN_OR_RETURN(control_,
                     StartControlListener(options_.control_listen, listener, {&control_service_}));
  }
  return absl::OkStatus();
}

absl::Status Server::Reload() {
  return authenticator_->has_keys() ? authenticator_->Reload() : absl::OkStatus();
}

HttpReply Server::Readiness() const {
  if (ready_) return {.body = "ready\n"};
  return {.status = 503, .body = drain_requested_ ? "draining\n" : "starting\n"};
}

void Server::RequestDrain(std::optional<double> timeout_seconds) {
  if (timeout_seconds.has_value()) {
    drain_timeout_seconds_ = *timeout_seconds;
    // The engine keeps the shortest of several.
    engine_->StartDrain(engine_->Now() + Nanoseconds(*timeout_seconds));
  }
  if (!drain_requested_.exchange(true)) parts_.on_drain_request();
}

void Server::Drain() {
  if (std::exchange(drained_, true)) return;
  drain_requested_ = true;
  ready_ = false;
  const std::chrono::duration<double> timeout(drain_timeout_seconds_);
  TimeNs deadline = 0;
  if (engine_ != nullptr) {
    Log(LogLevel::kInfo, "draining",
        {{"open_requests", int64_t{engine_->num_unfinished_requests()}},
         {"timeout_s", timeout.count()}});
    deadline = engine_->Now() + Nanoseconds(timeout.count());
    engine_->StartDrain(deadline);
  }
  // Said only now: who hears of it has no request accepted any more.
  health_service_.SetServing("", false);
  health_service_.SetServing(kGenerationService, false);
  const auto noticed = std::chrono::steady_clock::now() +
                       std::min<std::chrono::duration<double>>(kNoticeTime, timeout);
  if (engine_ != nullptr) engine_->Drain(deadline);
  if (health_service_.is_watched()) std::this_thread::sleep_until(noticed);
  health_service_.Shutdown();
  grpc_.Shutdown(kFlushTime);
  control_.Shutdown(kFlushTime);
}

}  // namespace tessera
