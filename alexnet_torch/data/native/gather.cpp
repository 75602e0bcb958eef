// Copies batches of crops out of a memory map of images. image_map.py compiles this file and calls it without the GIL.
//
// Three things make it several times as fast as a copy by NumPy, which waits for memory at each new row: rows are
// requested some rows ahead, across the ends of pages and images, where the processor's own prefetching stops; whole
// cache lines are written past the cache, so that they are not read first; and pixels are mirrored in registers.
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>
#ifdef __SSSE3__
#include <immintrin.h>
#endif

namespace {

// What image_map.py passes: pointers to the arrays, in this order.
struct Map {
  int64_t side;
  const uint8_t* images;  // (images, side, side, 3)
  const uint64_t* sums;  // (images,) checksum of each image
  const uint32_t* factors;  // of the checksum, one for each four bytes of an image
  uint8_t* checked;  // (images,) whether the image agreed with its checksum before

  Map(int64_t side, void* const* arrays)
      : side(side),
        images(static_cast<uint8_t*>(arrays[0])),
        sums(static_cast<uint64_t*>(arrays[1])),
        factors(static_cast<uint32_t*>(arrays[2])),
        checked(static_cast<uint8_t*>(arrays[3])) {}
};

struct Crops {
  int64_t n, size;
  const int64_t *rows, *top, *left;  // (n,)
  const uint8_t* mirrored;  // (n,)

  Crops(int64_t n, int64_t size, void* const* arrays)
      : n(n),
        size(size),
        rows(static_cast<int64_t*>(arrays[4])),
        top(static_cast<int64_t*>(arrays[5])),
        left(static_cast<int64_t*>(arrays[6])),
        mirrored(static_cast<uint8_t*>(arrays[7])) {}
};

constexpr int64_t kAhead = 4;  // rows of pixels, of two or three microseconds: the latency of memory under load
constexpr int64_t kLine = 64;  // bytes of a cache line
constexpr int64_t kUnreadable = -2, kDone = -1;

thread_local sigjmp_buf* recovery = nullptr;
struct sigaction previous;

// Reading a page that the file does not have any more, or that the disk cannot deliver, raises SIGBUS in this thread.
void on_bus_error(int, siginfo_t*, void*) {
  if (recovery) siglongjmp(*recovery, 1);
  sigaction(SIGBUS, &previous, nullptr);  // not ours: the access is repeated, and the handler before ours gets it
}

void handle_bus_errors() {
  struct sigaction current;
  sigaction(SIGBUS, nullptr, &current);
  if (current.sa_sigaction == on_bus_error) return;
  previous = current;
  struct sigaction ours = {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGBUS, &ours, nullptr);
}

inline void prefetch(const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i);
}

// Copies one row. Only whole lines go past the cache: half a line that is written so takes longer than a line.
inline void copy_row(uint8_t* to, const uint8_t* from, int64_t bytes) {
#ifdef __SSSE3__
  const int64_t head = -reinterpret_cast<uintptr_t>(to) & (kLine - 1);
  if (head + kLine <= bytes) {
    std::memcpy(to, from, head);
    int64_t i = head;
    for (; i + kLine <= bytes; i += kLine)
      for (int64_t j = i; j < i + kLine; j += 16)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + j), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j)));
    to += i, from += i, bytes -= i;
  }
#endif
  std::memcpy(to, from, bytes);
}

// Reverses the order of the pixels of three bytes.
inline void mirror_row(uint8_t* to, const uint8_t* from, int64_t pixels) {
  int64_t x = 0;
#ifdef __SSSE3__
  // five pixels at a time, the last 15 of 16 bytes; the 16th byte is written over by the next ones
  const __m128i order = _mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, -1);
  for (; x + 6 <= pixels; x += 5) {
    const auto* five = reinterpret_cast<const __m128i*>(from + 3 * (pixels - 5 - x) - 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 3 * x), _mm_shuffle_epi8(_mm_loadu_si128(five), order));
  }
#endif
  for (; x < pixels; ++x) std::memcpy(to + 3 * x, from + 3 * (pixels - 1 - x), 3);
}

// The sum of the image's four-byte words, each times its factor, modulo 2^64: image_map.py has the same in NumPy.
uint64_t sum_of_image(const uint8_t* image, int64_t bytes, const uint32_t* factors) {
  constexpr int64_t kBlock = 256;  // words
  uint64_t sum = 0;
  int64_t word = 0;
  for (; (word + kBlock) * 4 <= bytes; word += kBlock) {
    prefetch(image + word * 4 + 4096, kBlock * 4);
    uint32_t words[kBlock];
    std::memcpy(words, image + word * 4, sizeof words);
    for (int64_t i = 0; i < kBlock; ++i) sum += uint64_t(words[i]) * factors[word + i];
  }
  for (; word * 4 < bytes; ++word) {
    uint32_t last = 0;
    std::memcpy(&last, image + word * 4, bytes - word * 4 < 4 ? bytes - word * 4 : 4);
    sum += uint64_t(last) * factors[word];
  }
  return sum;
}

// Returns kDone, or the position in the batch of an image that does not agree with its checksum. `mirrored` has room
// for a row of a crop and 16 bytes.
int64_t copy_crops(const Map& map, const Crops& crops, uint8_t* mirrored, uint8_t* out) {
  const int64_t pitch = 3 * map.side, image_bytes = pitch * map.side, width = 3 * crops.size;
  const auto first_pixel = [&](int64_t i) {
    return map.images + crops.rows[i] * image_bytes + crops.top[i] * pitch + crops.left[i] * 3;
  };
  for (int64_t i = 0; i < crops.n; ++i) {
    const int64_t row = crops.rows[i];
    if (!map.checked[row]) {
      if (sum_of_image(map.images + row * image_bytes, image_bytes, map.factors) != map.sums[row]) return i;
      map.checked[row] = 1;
    }
    const uint8_t *from = first_pixel(i), *next = first_pixel(i + 1 < crops.n ? i + 1 : i);
    for (int64_t y = 0; y < crops.size; ++y, from += pitch, out += width) {
      const int64_t ahead = y + kAhead;
      prefetch(ahead < crops.size ? from + kAhead * pitch : next + (ahead - crops.size) * pitch, width);
      if (crops.mirrored[i]) mirror_row(mirrored, from, crops.size);
      copy_row(out, crops.mirrored[i] ? mirrored : from, width);
    }
  }
#ifdef __SSSE3__
  _mm_sfence();  // writes past the cache are visible to other threads from here on
#endif
  return kDone;
}

}  // namespace

// Copies the crops into the last array, (n, size, size, 3). The caller has checked all positions.
//
// Returns kDone; kUnreadable, if the file was truncated or its disk fails; or the position in the batch of an image
// that does not agree with its checksum. The array is then incomplete.
extern "C" int64_t gather(int64_t side, int64_t n, int64_t size, void* const* arrays) {
  handle_bus_errors();
  std::vector<uint8_t> mirrored(3 * size + 16);  // here, because a jump does not free it
  sigjmp_buf here;
  if (sigsetjmp(here, 1)) {
    recovery = nullptr;
    return kUnreadable;
  }
  recovery = &here;
  const int64_t result = copy_crops(Map(side, arrays), Crops(n, size, arrays), mirrored.data(), static_cast<uint8_t*>(arrays[8]));
  recovery = nullptr;
  return result;
}

// Asks the system to read what `gather` will read into memory, without waiting for it.
extern "C" int64_t read_ahead(int64_t side, int64_t n, int64_t size, void* const* arrays) {
  const Map map(side, arrays);
  const Crops crops(n, size, arrays);
  const int64_t image_bytes = 3 * side * side, page = sysconf(_SC_PAGESIZE);
  for (int64_t i = 0; i < n; ++i) {
    const bool whole = !map.checked[crops.rows[i]];
    const int64_t first = whole ? 0 : crops.top[i], lines = whole ? side : size;
    const auto start = reinterpret_cast<uintptr_t>(map.images + crops.rows[i] * image_bytes + first * 3 * side);
    const uintptr_t aligned = start / page * page;
    madvise(reinterpret_cast<void*>(aligned), start - aligned + lines * 3 * side, MADV_WILLNEED);
  }
  return kDone;
}

extern "C" uint64_t checksum(const uint8_t* image, const uint32_t* factors, int64_t bytes) {
  return sum_of_image(image, bytes, factors);
}
