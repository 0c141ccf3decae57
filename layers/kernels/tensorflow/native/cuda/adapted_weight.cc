#include "adapted_weight.h"

namespace tfjs_lora::cuda {
namespace {

constexpr int kThreads = 256;

}  // namespace

AdaptedWeight::AdaptedWeight(std::vector<const Projection*> parts) : parts_(std::move(parts)) {
  int64_t ranks = 0;
  for (const Projection* part : parts_) {
    rows_ += part->weight.rows;
    ranks += part->rank;
  }
  cols_ = parts_[0]->weight.cols;
  slots_ = (ranks + kSlots - 1) / kSlots * kSlots;
}

void AdaptedWeight::assemble(Device& device, Stream stream, void* place) {
  matrix_ = {static_cast<Half*>(place), cols_ + slots_};
  int64_t row = 0;
  int slot = 0;
  for (const Projection* part : parts_) {
    const int64_t rows = part->weight.rows;
    unpackWeight(device, stream, part->weight, matrix_.from(row));
    if (slots_ > 0) {
      device.kernels.launch(stream, "weights:putB", gridFor(rows * slots_, kThreads), kThreads, 0, part->b, part->scaling,
                            part->rank, slot, static_cast<int>(slots_), matrix_.from(row).columns(cols_).data,
                            matrix_.stride, rows);
    }
    row += rows;
    slot += part->rank;
  }
  slot = 0;
  for (size_t i = 0; i < parts_.size() && slots_ > 0; i++) {
    const Projection& part = *parts_[i];
    const bool isLast = i + 1 == parts_.size();
    const int count = isLast ? static_cast<int>(slots_) - slot : part.rank;  // the last one fills up with zeros
    if (count > 0) {
      device.kernels.launch(stream, "weights:putA", gridFor(count * (cols_ + slots_), kThreads), kThreads, 0, part.a,
                            part.rank, count, cols_, static_cast<int>(slots_), matrix_.from(rows_ + slot).data,
                            matrix_.stride);
    }
    slot += part.rank;
  }
}

void AdaptedWeight::addLow(const Context& c, int64_t n, Rows x) const {
  if (slots_ == 0) return;
  c.device.products.run(c.stream, c.workspace,
                        {n, slots_, cols_, x, false, matrix_.from(rows_), true, Output::bfloat16, x.columns(cols_).data,
                         x.stride});
}

void AdaptedWeight::forward(const Context& c, int64_t n, Rows x, Rows y, Rows added) const {
  c.device.products.run(c.stream, c.workspace,
                        {n, rows_, cols_ + slots_, x, false, matrix_, true, Output::bfloat16, y.data, y.stride,
                         added.data ? 1.f : 0.f, added});
}

void AdaptedWeight::addLowSlope(const Context& c, int64_t n, Rows dy) const {
  if (slots_ == 0) return;
  c.device.products.run(c.stream, c.workspace,
                        {n, slots_, rows_, dy, false, matrix_.columns(cols_), false, Output::bfloat16,
                         dy.columns(rows_).data, dy.stride});
}

void AdaptedWeight::backward(const Context& c, int64_t n, Rows dy, Rows dx) const {
  c.device.products.run(c.stream, c.workspace,
                        {n, cols_, rows_ + slots_, dy, false, matrix_, false, Output::bfloat16, dx.data, dx.stride});
}

void AdaptedWeight::addGradients(const Context& c, int64_t n, Rows x, Rows dy, float* sums, bool isFirst) const {
  if (slots_ == 0) return;
  const float factor = isFirst ? 0.f : 1.f;
  float* sumsOfB = sums + slots_ * cols_;
  c.device.products.run(c.stream, c.workspace,
                        {slots_, cols_, n, dy.columns(rows_), true, x, false, Output::float32, sums, cols_, factor,
                         {sums, cols_}});
  c.device.products.run(c.stream, c.workspace,
                        {rows_, slots_, n, dy, true, x.columns(cols_), false, Output::float32, sumsOfB, slots_, factor,
                         {sumsOfB, slots_}});
}

void AdaptedWeight::giveGradients(const Context& c, const float* sums) const {
  const float* sumsOfB = sums + slots_ * cols_;
  int64_t row = 0;
  int slot = 0;
  for (const Projection* part : parts_) {
    const int rank = part->rank;
    if (rank > 0) {
      check(driver().MemcpyDtoDAsync(reinterpret_cast<uint64_t>(part->da), reinterpret_cast<uint64_t>(sums + slot * cols_),
                                     rank * cols_ * sizeof(float), c.stream),
            "cuMemcpyDtoDAsync");
      c.device.kernels.launch(c.stream, "weights:takeB", gridFor(part->weight.rows * rank, kThreads), kThreads, 0,
                              sumsOfB + row * slots_, slots_, slot, part->scaling, part->db, part->weight.rows, rank);
    }
    row += part->weight.rows;
    slot += rank;
  }
}

}  // namespace tfjs_lora::cuda
