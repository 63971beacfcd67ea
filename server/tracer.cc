#include "server/tracer.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "absl/strings/escaping.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "scheduler/clock.h"
#include "server/log.h"
#include "server/random.h"

namespace tessera {
namespace {

namespace collector = opentelemetry::proto::collector::trace::v1;
using opentelemetry::proto::trace::v1::Span;
using opentelemetry::proto::trace::v1::Status;

constexpr size_t kMaxQueuedSpans = 8192;
constexpr size_t kMaxSpansPerExport = 512;
constexpr std::chrono::seconds kBatchTime{1};  // a batch waits so long to fill up
constexpr std::chrono::seconds kExportTime{2};

std::string RandomSpanId() {
  const uint64_t bits = RandomBits64() | 1;  // never all zeros
  return std::string(reinterpret_cast<const char*>(&bits), sizeof bits);
}

void AddAttribute(const std::string& key, int64_t value, Span* span) {
  auto* attribute = span->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_int_value(value);
}

Span CallSpan(const RequestTrace& trace) {
  Span span;
  span.set_trace_id(absl::HexStringToBytes(trace.context.trace_id));
  span.set_span_id(RandomSpanId());
  span.set_parent_span_id(absl::HexStringToBytes(trace.context.parent_span_id));
  span.set_name("tessera.v1.GenerationService/" + trace.method);
  span.set_kind(Span::SPAN_KIND_SERVER);
  AddAttribute("rpc.grpc.status_code", static_cast<int>(trace.status.code()), &span);
  AddAttribute("gen_ai.usage.input_tokens", trace.report.prompt_tokens, &span);
  AddAttribute("gen_ai.usage.output_tokens", trace.report.completion_tokens, &span);
  AddAttribute("tessera.sequences", trace.num_sequences, &span);
  AddAttribute("tessera.cached_tokens", trace.report.cached_tokens, &span);
  AddAttribute("tessera.preemptions", trace.report.num_preemptions, &span);
  if (!trace.status.ok()) {
    span.mutable_status()->set_code(Status::STATUS_CODE_ERROR);
    span.mutable_status()->set_message(std::string(trace.status.message()));
  }
  return span;
}

Span StageSpan(const Span& call, const char* name) {
  Span span;
  span.set_trace_id(call.trace_id());
  span.set_span_id(RandomSpanId());
  span.set_parent_span_id(call.span_id());
  span.set_name(name);
  span.set_kind(Span::SPAN_KIND_INTERNAL);
  return span;
}

int64_t UnixOffset() {
  const auto unix_time = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::nanoseconds(unix_time).count() - SteadyClock()->Now();
}

}  // namespace

// The collector's end.
class Tracer::Exporter {
 public:
  explicit Exporter(const Options& options)
      : options_(options),
        stub_(collector::TraceService::NewStub(
            grpc::CreateChannel(options.endpoint, grpc::InsecureChannelCredentials()))) {}

  // Not OK: the spans are lost.
  grpc::Status Export(std::deque<Span> spans) {
    collector::ExportTraceServiceRequest request;
    auto* resource_spans = request.add_resource_spans();
    AddResource("service.name", "tesserad", resource_spans->mutable_resource());
    AddResource("service.version", options_.version, resource_spans->mutable_resource());
    AddResource("gen_ai.request.model", options_.model, resource_spans->mutable_resource());
    auto* scope_spans = resource_spans->add_scope_spans();
    scope_spans->mutable_scope()->set_name("tessera");
    for (Span& span : spans) *scope_spans->add_spans() = std::move(span);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kExportTime);
    collector::ExportTraceServiceResponse response;
    return stub_->Export(&context, request, &response);
  }

 private:
  template <typename Resource>
  static void AddResource(const std::string& key, const std::string& value, Resource* resource) {
    auto* attribute = resource->add_attributes();
    attribute->set_key(key);
    attribute->mutable_value()->set_string_value(value);
  }

  const Options options_;
  const std::unique_ptr<collector::TraceService::Stub> stub_;
};

Tracer::Tracer(const Options& options)
    : exporter_(std::make_unique<Exporter>(options)),
      unix_offset_(UnixOffset()),
      thread_([this] { ExportUntilStopped(); }) {}

Tracer::~Tracer() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  spans_arrived_.NotifyOne();
  thread_.join();
}

uint64_t Tracer::UnixNanoseconds(TimeNs time) const {
  return static_cast<uint64_t>(time + unix_offset_);
}

void Tracer::Record(const RequestTrace& trace) {
  if (!trace.context.is_sampled) return;
  const SequenceReport& report = trace.report;
  const Span call = CallSpan(trace);
  MutexLock lock(&mutex_);
  const auto add = [&](Span span, TimeNs begin, TimeNs end) REQUIRES_LOCK(mutex_) {
    span.set_start_time_unix_nano(UnixNanoseconds(begin));
    span.set_end_time_unix_nano(UnixNanoseconds(end));
    AddSpan(std::move(span));
  };
  add(call, report.arrived, report.finished);
  if (trace.was_refused) return;
  // A stage that the request did not leave ends with it.
  const auto stage = [&](const char* name, TimeNs begin, TimeNs end) REQUIRES_LOCK(mutex_) {
    if (begin != 0) add(StageSpan(call, name), begin, end != 0 ? end : report.finished);
  };
  stage("queue", report.arrived, report.first_scheduled);
  stage("prefill", report.first_scheduled, report.first_token);
  stage("decode", report.first_token, report.finished);
}

void Tracer::AddSpan(Span span) {
  if (spans_.size() == kMaxQueuedSpans) {
    ++num_dropped_;
    return;
  }
  spans_.push_back(std::move(span));
  if (spans_.size() == kMaxSpansPerExport) spans_arrived_.NotifyOne();
}

void Tracer::ExportUntilStopped() {
  bool stopping = false;
  bool was_ok = true;
  while (true) {
    int64_t num_dropped = 0;
    std::deque<Span> spans = WaitForSpans(&stopping, &num_dropped);
    if (num_dropped > 0) Log(LogLevel::kWarn, "spans dropped", {{"spans", num_dropped}});
    if (spans.empty() && stopping) return;
    if (spans.empty()) continue;
    const auto num_spans = static_cast<int64_t>(spans.size());
    const grpc::Status status = exporter_->Export(std::move(spans));
    if (!status.ok() && was_ok) {  // said once, not with every batch
      Log(LogLevel::kWarn, "spans lost",
          {{"spans", num_spans}, {"reason", status.error_message()}});
    }
    was_ok = status.ok();
    if (!was_ok && stopping) return;
  }
}

std::deque<Tracer::Span> Tracer::WaitForSpans(bool* stopping, int64_t* num_dropped) {
  const auto deadline = std::chrono::steady_clock::now() + kBatchTime;
  MutexLock lock(&mutex_);
  while (!stopping_ && spans_.size() < kMaxSpansPerExport &&
         std::chrono::steady_clock::now() < deadline) {
    spans_arrived_.WaitUntil(&mutex_, deadline);
  }
  *stopping = stopping_;
  *num_dropped = std::exchange(num_dropped_, 0);
  std::deque<Span> spans;
  while (!spans_.empty() && spans.size() < kMaxSpansPerExport) {
    spans.push_back(std::move(spans_.front()));
    spans_.pop_front();
  }
  return spans;
}

}  // namespace tessera
