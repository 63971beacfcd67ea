#include "tests/fuzz/gguf_fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/weights.h"

namespace tessera {
namespace {

// A file in memory, opened by name as any other.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(memfd_create("gguf_fuzz", MFD_CLOEXEC)) {
    CHECK(fd_ >= 0);
    CHECK(write(fd_, data, size) == static_cast<ssize_t>(size));
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  const int fd_;
};

void CheckTensors(const GgufFile& file) {
  for (const GgufTensor& tensor : file.tensors()) {
    CHECK(file.FindTensor(tensor.name) == &tensor) << "a name finds its own tensor";
    CHECK(tensor.size_bytes ==
          static_cast<size_t>(tensor.rows()) * RowBytes(tensor.type, tensor.cols()));
    CHECK(tensor.file_offset >= file.header().size());
    CHECK(tensor.file_offset + tensor.size_bytes <= file.size_bytes());
    std::vector<std::byte> bytes(tensor.size_bytes);
    CHECK(file.ReadRows(tensor, 0, tensor.rows(), bytes.data()).ok());
  }
}

// Every getter on a key that is there, whatever its type: one of them succeeds at most.
void TryGetters(const GgufFile& file, const char* key) {
  const int num_ok = file.Unsigned(key).ok() + file.Float(key).ok() + file.Bool(key).ok() +
                     file.String(key).ok() + file.Integers(key).ok() + file.Floats(key).ok() +
                     file.Strings(key).ok();
  CHECK(num_ok <= 1) << key;
}

}  // namespace

bool FuzzGguf(const uint8_t* data, size_t size) {
  const MemoryFile bytes(data, size);
  const auto file = GgufFile::Open(bytes.path());
  if (!file.ok()) return false;
  CheckTensors(**file);
  for (const char* key : {"general.architecture", "general.name", "llama.block_count",
                          "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}) {
    TryGetters(**file, key);
  }
  const bool has_vocabulary = Tokenizer::Load(**file).ok();
  const auto config = ReadModelConfig(**file);
  if (!config.ok()) return false;
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  return LoadWeights(**file, *config, backend.get()).ok() && has_vocabulary;
}

}  // namespace tessera

#if defined(TESSERA_LIBFUZZER)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::FuzzGguf(data, size);
  return 0;
}
#endif
