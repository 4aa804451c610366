output "layer_arn" {
  description = "For the function's layers."
  value       = aws_lambda_layer_version.this.arn
}

output "policy_arn" {
  description = "For the function's role."
  value       = aws_iam_policy.this.arn
}

output "environment" {
  description = "For the function's variables."
  value = merge(
    {
      AWS_LAMBDA_EXEC_WRAPPER = "/opt/icecache"
      S3_BUCKET               = var.bucket
      S3_PREFIX               = var.prefix
      ICECACHE_FLUSH          = var.flush
    },
    var.may_delete ? {} : { ICECACHE_DELETE_AFTER = "never" },
  )
}
