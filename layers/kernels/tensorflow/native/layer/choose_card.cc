// A layer of Vulkan that shows a process one graphics card only, because Dawn takes the first card with a name, and cards of
// one kind have the same name. The ranks of a host count through its cards: TFJS_LORA_CARD is the number of the rank
// among them, and TFJS_LORA_CARD_NAME, if it is set, a part of the card's name. Software drivers do not count beside cards.
// TFJS_LORA_CHOSEN_CARD then has the name and the identity of the card, or "software". If no card has the name, all are
// shown. Vulkan's headers are not needed: what this uses of them is below, and part of a stable interface.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

using Instance = void*;
using PhysicalDevice = void*;
using Function = void (*)();
using GetProcAddress = Function (*)(Instance, const char* name);

constexpr int kSuccess = 0, kIncomplete = 5, kInitializationFailed = -3;

struct Link {
  Link* next;
  GetProcAddress getInstanceProcAddress;
};

/** VkInstanceCreateInfo and the structures that follow it; only those of the loader with a link are read. */
struct CreateInfo {
  int type;
  CreateInfo* next;
  int function;
  Link* link;
};
constexpr int kLoaderCreateInfo = 47, kLayerLinkInfo = 0;

constexpr int kProperties2 = 1000059001, kIdProperties = 1000071004, kProcessor = 4;

/** VkPhysicalDeviceIDProperties. */
struct IdProperties {
  int type;
  void* next;
  uint8_t device[16], driver[16], luid[8];
  uint32_t nodeMask, hasLuid;
};

/** VkPhysicalDeviceProperties2. */
struct Properties {
  int type;
  void* next;
  uint32_t versions[2], ids[2];
  int kind;
  char name[256];
  alignas(8) uint8_t others[1024];
};

/** VkNegotiateLayerInterface. */
struct Interface {
  int type;
  void* next;
  uint32_t version;
  GetProcAddress getInstanceProcAddress, getDeviceProcAddress, getPhysicalDeviceProcAddress;
};

/** Functions of an instance below this layer. */
struct Next {
  GetProcAddress getInstanceProcAddress;
  int (*enumerate)(Instance, uint32_t* count, PhysicalDevice*);
  void (*describe)(PhysicalDevice, Properties*);
};

std::mutex mutex;
std::map<Instance, Next> instances;

Next nextOf(Instance instance) {
  const std::lock_guard<std::mutex> lock(mutex);
  return instances[instance];
}

struct Card {
  PhysicalDevice device;
  std::string name, identity;
  bool isSoftware;
};

Card describe(const Next& next, PhysicalDevice device) {
  IdProperties id = {kIdProperties, nullptr, {}, {}, {}, 0, 0};
  Properties properties = {};
  properties.type = kProperties2;
  properties.next = &id;
  if (next.describe) next.describe(device, &properties);
  std::string identity;
  for (uint8_t byte : id.device) {
    char digits[3];
    snprintf(digits, sizeof digits, "%02x", byte);
    identity += digits;
  }
  return {device, properties.name, identity, properties.kind == kProcessor};
}

std::string variable(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

/** Returns the card of this rank, or all if none has the name. */
std::vector<PhysicalDevice> chosen(const Next& next, const std::vector<PhysicalDevice>& devices) {
  std::vector<Card> cards;
  const std::string name = variable("TFJS_LORA_CARD_NAME");
  for (PhysicalDevice device : devices) {
    const Card card = describe(next, device);
    if (card.name.find(name) != std::string::npos) cards.push_back(card);
  }
  const auto isSoftware = [](const Card& card) { return card.isSoftware; };
  if (!std::all_of(cards.begin(), cards.end(), isSoftware))
    cards.erase(std::remove_if(cards.begin(), cards.end(), isSoftware), cards.end());
  if (cards.empty()) return devices;
  const Card& card = cards[strtoul(variable("TFJS_LORA_CARD").c_str(), nullptr, 10) % cards.size()];
  const std::string described = card.isSoftware ? "software" : card.name + " " + card.identity;
  setenv("TFJS_LORA_CHOSEN_CARD", described.c_str(), 1);
  return {card.device};
}

int enumeratePhysicalDevices(Instance instance, uint32_t* count, PhysicalDevice* devices) {
  const Next next = nextOf(instance);
  uint32_t total = 0;
  if (const int status = next.enumerate(instance, &total, nullptr)) return status;
  std::vector<PhysicalDevice> all(total);
  if (const int status = next.enumerate(instance, &total, all.data()); status != kSuccess && status != kIncomplete)
    return status;
  all.resize(total);
  const std::vector<PhysicalDevice> left = chosen(next, all);
  const uint32_t room = devices ? std::min(*count, static_cast<uint32_t>(left.size())) : left.size();
  if (devices) std::copy_n(left.begin(), room, devices);
  *count = room;
  return room < left.size() ? kIncomplete : kSuccess;
}

int createInstance(CreateInfo* info, const void* allocator, Instance* instance) {
  CreateInfo* own = info;
  while (own && !(own->type == kLoaderCreateInfo && own->function == kLayerLinkInfo)) own = own->next;
  if (!own) return kInitializationFailed;
  const GetProcAddress get = own->link->getInstanceProcAddress;
  own->link = own->link->next;
  using Create = int (*)(CreateInfo*, const void*, Instance*);
  const int status = reinterpret_cast<Create>(get(nullptr, "vkCreateInstance"))(info, allocator, instance);
  if (status != kSuccess) return status;
  Next next = {get, nullptr, nullptr};
  next.enumerate = reinterpret_cast<decltype(next.enumerate)>(get(*instance, "vkEnumeratePhysicalDevices"));
  next.describe = reinterpret_cast<decltype(next.describe)>(get(*instance, "vkGetPhysicalDeviceProperties2"));
  const std::lock_guard<std::mutex> lock(mutex);
  instances[*instance] = next;
  return kSuccess;
}

Function getInstanceProcAddress(Instance instance, const char* name) {
  if (!strcmp(name, "vkCreateInstance")) return reinterpret_cast<Function>(createInstance);
  if (!strcmp(name, "vkEnumeratePhysicalDevices")) return reinterpret_cast<Function>(enumeratePhysicalDevices);
  if (!strcmp(name, "vkGetInstanceProcAddr")) return reinterpret_cast<Function>(getInstanceProcAddress);
  const GetProcAddress next = nextOf(instance).getInstanceProcAddress;
  return next ? next(instance, name) : nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int vkNegotiateLoaderLayerInterfaceVersion(Interface* given) {
  given->version = std::min(given->version, uint32_t{2});
  given->getInstanceProcAddress = getInstanceProcAddress;
  given->getDeviceProcAddress = nullptr;
  given->getPhysicalDeviceProcAddress = nullptr;
  return kSuccess;
}
