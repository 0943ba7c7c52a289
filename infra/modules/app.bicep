// The app on Flex Consumption, the secrets of VAST, and what the app may do here.
param token string
param location string
param tags object
param identityName string
param storageName string
param deploymentContainer string
param eventQueue string
param insightsName string
param redisHostName string
@secure()
param vastAccessKey string
@secure()
param vastSecretKey string
param subnetId string
param pythonVersion string
param instanceMemoryMB int
param maximumInstanceCount int
param deadLetterContainer string
param operatorPrincipalId string
param operatorPrincipalType string

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: identityName
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: 'kv-${token}'
  location: location
  tags: tags
  properties: {
    sku: { family: 'A', name: 'standard' }
    tenantId: subscription().tenantId
    enableRbacAuthorization: true
  }

  resource access 'secrets' = {
    name: 'vast-access-key'
    properties: { value: vastAccessKey }
  }

  resource secret 'secrets' = {
    name: 'vast-secret-key'
    properties: { value: vastSecretKey }
  }
}

// Key Vault Secrets User, and on Application Insights Monitoring Metrics Publisher.
resource readsSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, identity.id, 'secrets')
  scope: vault
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4633458b-17de-408a-b874-0445c86b69e6')
  }
}

// For `fedplane` at a desk: it speaks to VAST with the same keys.
resource operatorReadsSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorPrincipalId)) {
  name: guid(vault.id, operatorPrincipalId, 'secrets')
  scope: vault
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4633458b-17de-408a-b874-0445c86b69e6')
  }
}

resource publishesMetrics 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, identity.id, 'metrics')
  scope: insights
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '3913510d-42f4-4e42-8a64-420c390055eb')
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: 'plan-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true }
}

var settings = {
  AzureWebJobsStorage__blobServiceUri: storage.properties.primaryEndpoints.blob
  AzureWebJobsStorage__queueServiceUri: storage.properties.primaryEndpoints.queue
  AzureWebJobsStorage__tableServiceUri: storage.properties.primaryEndpoints.table
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identity.properties.clientId
  FEDERATION_QUEUE__queueServiceUri: storage.properties.primaryEndpoints.queue
  FEDERATION_QUEUE__credential: 'managedidentity'
  FEDERATION_QUEUE__clientId: identity.properties.clientId
  AZURE_CLIENT_ID: identity.properties.clientId // DefaultAzureCredential: the data account, Redis, the queue of events
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.properties.clientId};Authorization=AAD'
  VAST_ACCESS_KEY: '@Microsoft.KeyVault(SecretUri=${vault::access.properties.secretUri})'
  VAST_SECRET_KEY: '@Microsoft.KeyVault(SecretUri=${vault::secret.properties.secretUri})'
  FEDERATION__REDIS__URL: 'rediss://${redisHostName}:10000'
  FEDERATION__REDIS__AUTH: 'entra'
  FEDERATION__PAIR__0__BLOB__EVENTS__QUEUE_URL: '${storage.properties.primaryEndpoints.queue}${eventQueue}'
  FEDERATION__PAIR__0__BLOB__EVENTS__DEAD_LETTER_CONTAINER: deadLetterContainer
  FEDERATION__METRICS__AZURE_CONNECTION_STRING_ENV: 'APPLICATIONINSIGHTS_CONNECTION_STRING'
  FEDERATION__METRICS__AZURE_ENTRA: 'true'
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: 'func-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'app' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identity.id}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identity.id
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      alwaysOn: false
      minTlsVersion: '1.2'
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${deploymentContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        // The timers and the reader of VAST's topic must not wait for a cold start.
        alwaysReady: [{ name: 'function:vast_events', instanceCount: 1 }]
      }
      runtime: { name: 'python', version: pythonVersion }
    }
  }

  resource appsettings 'config' = {
    name: 'appsettings'
    dependsOn: [readsSecrets] // a reference that is looked up before the role is there stays unresolved for hours
    properties: settings
  }
}

output name string = app.name
output vaultName string = vault.name
output url string = 'https://${app.properties.defaultHostName}'
