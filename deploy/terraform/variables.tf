variable "layer_zip" {
  description = "The layer as scripts/package-layer writes it."
  type        = string
}

variable "architecture" {
  description = "What the zip is for: arm64 or x86_64."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "The architecture must be arm64 or x86_64."
  }
}

variable "name" {
  description = "Name of the layer and of the policy."
  type        = string
  default     = "icecache"
}

variable "bucket" {
  description = "Name of the bucket that has the states."
  type        = string
}

variable "prefix" {
  description = "Where in the bucket they are, without a slash at its end. The policy gives rights for nothing else."
  type        = string

  validation {
    condition     = length(var.prefix) > 0 && !endswith(var.prefix, "/") && !startswith(var.prefix, "/")
    error_message = "The prefix must be given, and neither begin nor end with a slash."
  }
}

variable "flush" {
  description = "When to save: before-response, after-response, a number of invocations, or a time such as 30s."
  type        = string
  default     = "before-response"
}

variable "may_delete" {
  description = "Whether functions may delete layers that no kept version needs."
  type        = bool
  default     = false
}
