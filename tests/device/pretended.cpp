// A device of its own in the eyes of torch, whose memory is the machine's: what a GPU would refuse is refused, and what
// it would compute is computed by the kernels of the CPU, to the same bits.
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_cpu_dispatch.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/unfold_cpu_dispatch.h>
#include <ATen/ops/view_cpu_dispatch.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

using c10::DeviceType;

const c10::Device pretended(DeviceType::PrivateUse1, 0);

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    at::DataPtr found = c10::GetCPUAllocator()->allocate(bytes);
    found.unsafe_set_device(pretended);
    return found;
  }
  at::DeleterFnPtr raw_deleter() const override { return c10::GetCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

Memory memory;
REGISTER_ALLOCATOR(DeviceType::PrivateUse1, &memory)

// Everything is done when it is asked for, so there is never anything to wait for.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::PrivateUse1> {
  c10::Device exchangeDevice(c10::Device) const override { return pretended; }
  c10::Device getDevice() const override { return pretended; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, pretended); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeEvent(void*) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};

constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                 std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

// The same memory as a tensor of the CPU.
at::Tensor near(const at::Tensor& one) {
  if (!one.defined() || !one.is_privateuseone()) return one;
  return at::from_blob(one.data_ptr(), one.sizes(), one.strides(), one.options().device(at::kCPU).requires_grad(false));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  near(to).copy_(near(from));
  return to;
}

const at::Tensor& resize(const at::Tensor& one, c10::IntArrayRef size, std::optional<c10::MemoryFormat>) {
  if (one.sizes() != size) {
    const auto kind = one.scalar_type();
    one.unsafeGetTensorImpl()->set_storage_keep_dtype(empty(size, kind, {}, {}, {}, {}).storage());
    one.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  }
  return one;
}

at::Tensor copy_whole(const at::Tensor& from, const at::Tensor& to) {
  resize(to, from.sizes(), {});
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& one) { return near(one).item(); }

at::Tensor far(const at::Tensor& one) { return one.defined() ? one.to(pretended) : one; }

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_padding, int64_t groups) {
  TORCH_CHECK(input.is_privateuseone() && weight.is_privateuseone(), "Expected all tensors to be on the same device");
  const std::optional<at::Tensor> added = bias ? std::optional<at::Tensor>(near(*bias)) : std::nullopt;
  return far(at::convolution(near(input), near(weight), added, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> wanted) {
  const std::vector<int64_t> bias{weight.size(transposed ? 1 : 0) * (transposed ? groups : 1)};
  auto [one, two, three] = at::convolution_backward(near(grad), near(input), near(weight), bias, stride, padding,
                                                    dilation, transposed, output_padding, groups, wanted);
  return {far(one), far(two), far(three)};
}

// What a GPU accepts from the CPU: single numbers, and places to look at.
bool may_mix(const std::string& name) {
  return name == "aten::index.Tensor" || name == "aten::_index_put_impl_" || name == "aten::index_put_";
}

void refuse_mixed(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  auto check = [&](const at::Tensor& one) {
    TORCH_CHECK(!one.defined() || one.is_privateuseone() || one.dim() == 0 || may_mix(name),
                "Expected all tensors to be on the same device, but ", name, " found one on ", one.device());
  };
  for (const auto& one : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (one.isTensor()) check(one.toTensor());
    if (one.isTensorList()) for (const at::Tensor& each : one.toTensorList()) check(each);
  }
}

at::Tensor nothing(const at::Tensor& one) { return at::empty({0}, one.options().device(at::kCPU)); }

template <typename Change>
c10::IValue changed(const c10::IValue& one, Change change) {
  if (one.isTensor()) return change(one.toTensor());
  if (one.isTensorList()) {
    c10::List<at::Tensor> found;
    for (const at::Tensor& each : one.toTensorList()) found.push_back(change(each));
    return found;
  }
  if (one.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> found;
    for (const std::optional<at::Tensor>& each : one.toOptionalTensorList())
      found.push_back(each ? std::optional<at::Tensor>(change(*each)) : std::nullopt);
    return found;
  }
  return one.isDevice() ? c10::IValue(c10::Device(at::kCPU)) : one;
}

// The CPU's kernel on the same memory; what comes out anew is brought over.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  refuse_mixed(op, stack);
  const auto& schema = op.schema();
  const auto given = torch::jit::pop(*stack, schema.arguments().size());
  std::unordered_map<c10::Symbol, at::Tensor> written;
  for (size_t place = 0; place < given.size(); ++place) {
    const auto* alias = schema.arguments()[place].alias_info();
    const bool writes = alias && alias->isWrite() && given[place].isTensor();
    if (writes) written.emplace(*alias->beforeSets().begin(), given[place].toTensor());
    const bool fresh = writes && given[place].toTensor().numel() == 0;  // an own tensor, as it takes any size
    stack->push_back(changed(given[place], fresh ? nothing : near));
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  const auto made = torch::jit::pop(*stack, schema.returns().size());
  for (size_t place = 0; place < made.size(); ++place) {
    const auto* alias = schema.returns()[place].alias_info();
    TORCH_CHECK(!alias || alias->isWrite(), schema.name(), " gives a view, which nothing new can stand for");
    if (!alias) {
      stack->push_back(changed(made[place], far));
      continue;
    }
    const at::Tensor& into = written.at(*alias->beforeSets().begin());
    if (into.sizes() != made[place].toTensor().sizes()) copy_whole(made[place].toTensor(), into);
    stack->push_back(into);
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_whole);
  m.impl("resize_", resize);
  m.impl("_local_scalar_dense", item);
  m.impl("as_strided", at::cpu::as_strided);
  m.impl("_reshape_alias", at::cpu::_reshape_alias);
  m.impl("view", at::cpu::view);
  m.impl("unfold", at::cpu::unfold);
  m.impl("mse_loss", torch::CppFunction::makeFromBoxedFunction<&fallback>());  // torch's own way warns
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("set_.source_Storage_storage_offset",
         [](at::Tensor& self, at::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) -> at::Tensor& {
           return at::cpu::set__symint(self, std::move(storage), std::move(offset), size, stride);
         });
}

struct Registered {
  Registered() { at::RegisterPrivateUse1HooksInterface(new Hooks()); }
} registered;

}  // namespace
