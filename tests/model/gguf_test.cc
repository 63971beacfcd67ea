#include "model/gguf.h"

#include <sys/stat.h>

#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_file.h"

namespace tessera {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

absl::Status OpenStatus(std::string_view bytes) {
  const TempFile file(bytes);
  return GgufFile::Open(file.path()).status();
}

// The fixed part of a file, then whatever a case wants behind it.
ByteWriter Header(uint64_t num_tensors, uint64_t num_values, uint32_t version = 3) {
  return ByteWriter().PutBytes("GGUF").Put(version).Put(num_tensors).Put(num_values);
}
// With one metadata pair of a type whose value the case appends.
ByteWriter WithValue(std::string_view key, GgufType type) {
  return Header(0, 1).PutText(key).PutType(type);
}
ByteWriter WithArray(GgufType element_type, uint64_t count) {
  return WithValue("array", GgufType::kArray).PutType(element_type).Put(count);
}
// With one tensor, whose data the case appends.
ByteWriter WithTensor(std::string_view name, uint32_t type_id, const std::vector<int64_t>& dims,
                      uint64_t offset = 0) {
  ByteWriter file = Header(1, 0).PutText(name).Put(static_cast<uint32_t>(dims.size()));
  for (int64_t dim : dims) file.Put(dim);
  return file.Put(type_id).Put(offset).PadTo(32);
}

constexpr uint32_t kF32Id = 0;
constexpr uint32_t kQ4_1Id = 3;
constexpr uint32_t kQ2KId = 10;
constexpr int64_t kHuge = int64_t{1} << 40;

struct HostileCase {
  const char* name;
  std::string bytes;
  StatusCode code;
  const char* message;  // part of what the status must say
};

std::vector<HostileCase> HostileHeaders() {
  const auto invalid = StatusCode::kInvalidArgument;
  return {
      {"empty file", "", invalid, "magic at byte 0: expected 4 more bytes, got 0"},
      {"bad magic", "GGML" + Header(0, 0).bytes().substr(4), invalid,
       "magic: expected 'GGUF', got 'GGML'"},
      {"control bytes in the magic", std::string("\x1b[2J", 4), invalid, "got '\\x1b[2J'"},
      {"no version", "GGUF", invalid, "version at byte 4: expected 4 more bytes, got 0"},
      {"version 0", Header(0, 0, 0).bytes(), StatusCode::kUnimplemented, "expected 2 or 3, got 0"},
      {"version 1", Header(0, 0, 1).bytes(), StatusCode::kUnimplemented, "expected 2 or 3, got 1"},
      {"version 4", Header(0, 0, 4).bytes(), StatusCode::kUnimplemented, "expected 2 or 3, got 4"},
      {"big-endian", Header(0, 0, 0x03000000).bytes(), StatusCode::kUnimplemented, "big-endian"},
      {"tensor count", Header(1 << 20, 0).bytes(), invalid,
       "tensor count: expected at most 65536, got 1048576"},
      {"negative tensor count", Header(~uint64_t{0}, 0).bytes(), invalid, "tensor count"},
      {"metadata count", Header(0, 1 << 20).bytes(), invalid,
       "metadata count: expected at most 65536, got 1048576"},
      {"metadata missing", Header(0, 1).bytes(), invalid, "metadata key at byte 24"},
      {"tensor missing", Header(1, 0).bytes(), invalid, "tensor name at byte 24"},
  };
}

std::vector<HostileCase> HostileValues() {
  const auto invalid = StatusCode::kInvalidArgument;
  const auto u32_value = [](ByteWriter writer, uint32_t value) {
    return writer.Put(value).bytes();
  };
  const std::string pair = ByteWriter().PutText("a").PutType(GgufType::kUint8).Put('x').bytes();
  return {
      {"huge key", Header(0, 1).Put(kHuge).bytes(), invalid, "expected a length of at most 65536"},
      {"key beyond the end", Header(0, 1).Put(uint64_t{100}).bytes(), invalid,
       "metadata key at byte 32: expected 100 more bytes, got 0"},
      {"empty key", Header(0, 1).PutText("").PutType(GgufType::kUint8).Put('x').bytes(), invalid,
       "metadata key: expected a name"},
      {"unknown type", Header(0, 1).PutText("a").Put(13u).bytes(), invalid,
       "expected 0 to 12, got 13"},
      {"twice the same key", Header(0, 2).PutBytes(pair + pair).bytes(), invalid,
       "metadata key 'a': expected once"},
      {"bool of 2", WithValue("b", GgufType::kBool).Put('\2').bytes(), invalid,
       "expected 0 or 1, got 2"},
      {"huge string", WithValue("s", GgufType::kString).Put(kHuge).bytes(), invalid,
       "metadata string at byte 45: expected a length of at most 67108864, got 1099511627776"},
      {"string beyond the end", WithValue("s", GgufType::kString).Put(uint64_t{9}).bytes(), invalid,
       "expected 9 more bytes"},
      {"array of arrays", WithArray(GgufType::kArray, 1).bytes(), invalid,
       "array element type: expected a scalar or string, got array"},
      {"array of an unknown type", WithValue("a", GgufType::kArray).Put(99u).bytes(), invalid,
       "expected 0 to 12, got 99"},
      {"array size wraps", WithArray(GgufType::kUint64, uint64_t{1} << 61).bytes(), invalid,
       "array length: expected a size that fits"},
      {"array beyond the end", WithArray(GgufType::kUint8, kHuge).bytes(), invalid,
       "expected 1099511627776 more bytes"},
      {"strings beyond the end", WithArray(GgufType::kString, kHuge).bytes(), invalid,
       "metadata string"},
      {"alignment of 0", u32_value(WithValue("general.alignment", GgufType::kUint32), 0), invalid,
       "general.alignment: expected a power of two"},
      {"alignment of 48", u32_value(WithValue("general.alignment", GgufType::kUint32), 48), invalid,
       "of at most 65536, got 48"},
      {"huge alignment", u32_value(WithValue("general.alignment", GgufType::kUint32), 1u << 31),
       invalid, "got 2147483648"},
      {"alignment of another type", u32_value(WithValue("general.alignment", GgufType::kInt32), 32),
       invalid, "expected a u32, got i32"},
  };
}

std::vector<HostileCase> HostileTensors() {
  const auto invalid = StatusCode::kInvalidArgument;
  const std::string floats(128, '\0');
  ByteWriter twice = Header(2, 0);
  for (uint64_t offset : {0, 32}) {
    twice.PutText("t").Put(1u).Put(int64_t{8}).Put(kF32Id).Put(offset);
  }
  return {
      {"long name", WithTensor(std::string(64, 'n'), kF32Id, {4}).bytes(), invalid,
       "tensor name at byte 32: expected a length of at most 63, got 64"},
      {"empty name", WithTensor("", kF32Id, {4}).bytes(), invalid, "tensor name: expected a name"},
      {"five dimensions", WithTensor("t", kF32Id, {1, 1, 1, 1, 1}).bytes(), invalid,
       "expected at most 4 dimensions, got 5"},
      {"negative dimension", WithTensor("t", kF32Id, {4, -1}).bytes(), invalid,
       "tensor 't': expected dimensions >= 0, got -1"},
      {"elements wrap", WithTensor("t", kF32Id, {kHuge, kHuge}).bytes(), invalid,
       "expected fewer than 2^63 elements"},
      {"bytes wrap", WithTensor("t", kF32Id, {kHuge, 1 << 22}).bytes(), invalid,
       "expected a size below 2^64 bytes"},
      {"bytes beyond the end", WithTensor("t", kF32Id, {kHuge}).bytes(), invalid,
       "expected 4398046511104 bytes at 64, got a file of 64 bytes"},
      {"one byte short", WithTensor("t", kF32Id, {8}).PutBytes(floats.substr(0, 31)).bytes(),
       invalid, "expected 32 bytes at 64, got a file of 95 bytes"},
      {"half a block", WithTensor("t", kQ4_1Id, {48}).PutBytes(floats).bytes(), invalid,
       "expected a row length divisible by 32 for Q4_1, got 48"},
      {"unknown type", WithTensor("t", 99, {4}).PutBytes(floats).bytes(), invalid,
       "got the unknown type id 99"},
      {"removed type", WithTensor("t", 4, {4}).PutBytes(floats).bytes(), invalid,
       "got the unknown type id 4"},
      {"unsupported type", WithTensor("t", kQ2KId, {256}).PutBytes(floats).bytes(),
       StatusCode::kUnimplemented, "Q6_K, got Q2_K"},
      {"offset not 0", WithTensor("t", kF32Id, {8}, 32).PutBytes(floats).bytes(), invalid,
       "tensor 't': expected offset 0, got 32"},
      {"huge offset", WithTensor("t", kF32Id, {8}, ~uint64_t{0}).PutBytes(floats).bytes(), invalid,
       "expected offset 0, got 18446744073709551615"},
      {"twice the same name", twice.PadTo(32).PutBytes(floats).bytes(), invalid,
       "tensor 't': expected once"},
  };
}

void ExpectRefused(const std::vector<HostileCase>& cases) {
  for (const HostileCase& hostile : cases) {
    SCOPED_TRACE(hostile.name);
    const absl::Status status = OpenStatus(hostile.bytes);
    EXPECT_EQ(status.code(), hostile.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(hostile.message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("/tmp/")) << "names the file";
  }
}

TEST(GgufTest, RefusesHostileHeaders) { ExpectRefused(HostileHeaders()); }
TEST(GgufTest, RefusesHostileMetadata) { ExpectRefused(HostileValues()); }
TEST(GgufTest, RefusesHostileTensorTables) { ExpectRefused(HostileTensors()); }

TEST(GgufTest, RefusesWhatIsNoRegularFile) {
  EXPECT_EQ(GgufFile::Open("/nonexistent.gguf").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(GgufFile::Open("/tmp").status().code(), StatusCode::kInvalidArgument);
  const TempFile taken("");
  const std::string pipe = taken.path() + ".pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(GgufFile::Open(pipe).status().code(), StatusCode::kInvalidArgument);
  unlink(pipe.c_str());
}

std::string SampleFile(uint32_t version = 3, uint32_t alignment = 32) {
  GgufWriter writer;
  writer.version = version;
  writer.alignment = alignment;
  writer.Add("count", 7u);
  writer.Add("wide", uint64_t{1} << 40);
  writer.Add("ratio", 0.5f);
  writer.Add("flag", true);
  writer.Add("name", "some text");
  const std::vector<std::string> words = {"a", "", "long word"};
  writer.Add("words", words);
  const std::vector<int32_t> integers = {3, -1, 4};
  writer.Add("integers", integers);
  const std::vector<float> floats = {1.5f, -2.0f};
  writer.Add("floats", floats);
  std::string rows(128, '\0');
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<char>(i);
  writer.AddTensor("matrix", DType::kF32, {8, 4}, rows);
  writer.AddTensor("odd", DType::kF16, {3}, "abcdef");
  writer.AddTensor("none", DType::kF32, {4, 0}, "");
  writer.AddTensor("scalar", DType::kF32, {}, "1234");
  return writer.Build();
}

TEST(GgufTest, ReadsMetadataOfEveryKind) {
  const TempFile bytes(SampleFile());
  const auto file = GgufFile::Open(bytes.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*(*file)->Unsigned("count"), 7u);
  EXPECT_EQ(*(*file)->Unsigned("wide"), uint64_t{1} << 40);
  EXPECT_EQ(*(*file)->Float("ratio"), 0.5);
  EXPECT_TRUE(*(*file)->Bool("flag"));
  EXPECT_EQ(*(*file)->String("name"), "some text");
  EXPECT_THAT(*(*file)->Strings("words"), ElementsAre("a", "", "long word"));
  EXPECT_THAT(*(*file)->Integers("integers"), ElementsAre(3, -1, 4));
  EXPECT_THAT(*(*file)->Floats("floats"), ElementsAre(1.5, -2.0));
  EXPECT_TRUE((*file)->IsArray("words"));
  EXPECT_FALSE((*file)->IsArray("name"));
}

TEST(GgufTest, SaysWhatAGetterExpectedAndGot) {
  const TempFile bytes(SampleFile());
  const auto file = GgufFile::Open(bytes.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status missing = (*file)->Float("temperature").status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              HasSubstr("temperature: expected a float, got no such key"));
  const absl::Status wrong = (*file)->Unsigned("words").status();
  EXPECT_EQ(wrong.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.message()),
              HasSubstr("words: expected an unsigned integer, got array of string"));
  EXPECT_FALSE((*file)->Strings("integers").ok());
  EXPECT_FALSE((*file)->String("count").ok());
  EXPECT_FALSE((*file)->Bool("count").ok());
  EXPECT_FALSE((*file)->Integers("count").ok());
}

TEST(GgufTest, RefusesANegativeUnsigned) {
  const TempFile bytes(WithValue("n", GgufType::kInt16).Put(int16_t{-5}).bytes());
  const auto file = GgufFile::Open(bytes.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(std::string((*file)->Unsigned("n").status().message()), HasSubstr("got -5"));
}

void ExpectSampleTensors(const GgufFile& file) {
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.tensors()[1].name, "odd");
  EXPECT_EQ(file.FindTensor("nothing"), nullptr);
  const GgufTensor* matrix = file.FindTensor("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->cols(), 8);
  EXPECT_EQ(matrix->rows(), 4);
  std::vector<std::byte> rows(64);
  ASSERT_TRUE(file.ReadRows(*matrix, 1, 2, rows.data()).ok());
  EXPECT_EQ(static_cast<int>(rows.front()), 32);
  EXPECT_EQ(static_cast<int>(rows.back()), 95);
  char odd[6];
  ASSERT_TRUE(file.ReadRows(*file.FindTensor("odd"), 0, 1, reinterpret_cast<std::byte*>(odd)).ok());
  EXPECT_EQ(std::string_view(odd, 6), "abcdef");
  EXPECT_EQ(file.FindTensor("none")->rows(), 0);
  EXPECT_EQ(file.FindTensor("scalar")->size_bytes, 4u);
}

TEST(GgufTest, ReadsTensorsOfBothVersionsAndAnyAlignment) {
  for (uint32_t version : {2u, 3u}) {
    for (uint32_t alignment : {1u, 32u, 4096u}) {
      SCOPED_TRACE(testing::Message() << "version " << version << ", alignment " << alignment);
      const TempFile bytes(SampleFile(version, alignment));
      const auto file = GgufFile::Open(bytes.path());
      ASSERT_TRUE(file.ok()) << file.status();
      ExpectSampleTensors(**file);
    }
  }
}

TEST(GgufTest, AFileWithoutTensorsEndsWithItsMetadata) {
  const TempFile bytes(Header(0, 0).bytes());
  const auto file = GgufFile::Open(bytes.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->header().size(), 24u);
}

TEST(GgufTest, RefusesEveryTruncation) {
  const std::string whole = SampleFile();
  for (size_t size = 0; size < whole.size(); ++size) {
    const absl::Status status = OpenStatus(std::string_view(whole).substr(0, size));
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << size << " bytes: " << status;
  }
  EXPECT_TRUE(OpenStatus(whole).ok());
}

TEST(GgufTest, AFileCutShortUnderUsIsAStatus) {
  const TempFile bytes(SampleFile());
  const auto file = GgufFile::Open(bytes.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufTensor& matrix = *(*file)->FindTensor("matrix");
  ASSERT_EQ(truncate(bytes.path().c_str(), static_cast<off_t>(matrix.file_offset + 40)), 0);
  std::vector<std::byte> rows(matrix.size_bytes);
  EXPECT_TRUE((*file)->ReadRows(matrix, 0, 1, rows.data()).ok());
  const absl::Status status = (*file)->ReadRows(matrix, 0, 4, rows.data());
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("truncated while it was read"));
}

}  // namespace
}  // namespace tessera
