// On the data account, in its own resource group: what the app may do there, and the topic of its events.
param token string
param tags object
param accountName string
param container string
param principalId string

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: accountName

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource data 'containers' existing = {
      name: container
    }
  }
}

// Storage Blob Data Contributor on the one container.
resource reads 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, container, principalId)
  scope: account::blobs::data
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')
  }
}

// One system topic an account: where one exists, name it as it is named.
resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' = {
  name: 'evgt-${token}'
  location: account.location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    source: account.id
    topicType: 'Microsoft.Storage.StorageAccounts'
  }
}

output topicName string = topic.name
output topicPrincipalId string = topic.identity.principalId
