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
  description = "Name of the bucket that has the states. Give it a lifecycle rule that aborts incomplete multipart uploads: a save that is given up may leave one."
  type        = string
}

variable "prefix" {
  description = "Where in the bucket they are, without a slash at its end. The policy gives rights for nothing else."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*$", var.prefix))
    error_message = "The prefix must be names of letters, digits and . _ = - with one slash between them, and none at its ends."
  }
}

variable "flush" {
  description = "When to save: before-response, after-response, a number of invocations, or a time such as 30s."
  type        = string
  default     = "before-response"
}

variable "may_delete" {
  description = "Whether functions may delete layers that no kept version needs. For that they may list what is at the prefix."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "The key that the bucket is encrypted with, if it is one of yours."
  type        = string
  default     = null
}
